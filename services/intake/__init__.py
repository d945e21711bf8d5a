"""Intake: accepts items, notices and appeals; each 202 response means that all in-sync replicas have the events."""
