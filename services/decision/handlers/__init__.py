"""The use cases: one module for each aggregate, and the messages that they receive and publish.

Each use case is one transaction, which holds the change of state and the events that report it; after the commit the
outbox relay is woken. No Kafka offsets are committed here. Every use case may run twice: the ids of the
cases recognise a repeated batch, and the lease token a repeated command.
"""
