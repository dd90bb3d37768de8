"""What people run around the stream: `python -m ops --help`."""
