"""What every service stands on: events, ids, clock, errors, settings, lifecycle, Kafka, Postgres. Knows no service."""
