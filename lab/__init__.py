"""What only a demo, tests and benchmarks need: servers, a model, sample transactions."""
