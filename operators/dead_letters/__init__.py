"""Failures on their way to the error topic, and what is there already."""
