"""Deployment: the list of services, the local stack, containers, topics and alerts."""
