"""Factories, a store in memory and the service on PostgreSQL, for the tests of the decision service."""
