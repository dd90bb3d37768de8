"""The model's API: requests, retries, verdicts."""
