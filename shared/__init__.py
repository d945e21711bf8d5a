"""Code for all services: events, ids, clock, settings, supervision, REST, Kafka, PostgreSQL. Imports no service."""
