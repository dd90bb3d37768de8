"""The steps of the stream, one a module; each says what it takes, gives and owns."""
