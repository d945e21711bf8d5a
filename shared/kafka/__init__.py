"""Kafka infrastructure: topics, batch producer, batch consumer loop, dead letters, reader of the control topic."""

from shared.kafka.closed_connections import report_closed_connections

report_closed_connections()  # here, because every module of this package uses the client
