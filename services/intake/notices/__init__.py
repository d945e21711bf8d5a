"""Notices about subjects and appeals against decisions: submission and status."""
