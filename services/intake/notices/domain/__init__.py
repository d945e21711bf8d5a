"""The rules of notices and appeals, and their status."""
