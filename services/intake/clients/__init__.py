"""Clients and API keys: stored here and published to every service."""
