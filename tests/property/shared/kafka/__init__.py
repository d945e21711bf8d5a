"""Property tests of the Kafka package."""
