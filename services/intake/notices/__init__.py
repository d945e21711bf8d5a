"""Notices about subjects and appeals about decisions: taken in, checked, told, and followed."""
