"""Kafka plumbing: topics, the batch producer, the batch consumer loop, dead letters, the control topic's reader."""
