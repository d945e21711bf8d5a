"""REST infrastructure of every service."""
