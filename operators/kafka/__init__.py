"""Kafka's clients: reading, positions and commits."""
