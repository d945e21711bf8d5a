"""Kafka infrastructure: topics, batch producer, batch consumer loop, dead letters, reader of the control topic."""
