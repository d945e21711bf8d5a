"""Publishing records to the Kafka clusters of their regions, with bounded queues and group commit."""
