"""The front door: what it answered 202 is in Kafka, acknowledged by all in-sync replicas of every region it is for."""
