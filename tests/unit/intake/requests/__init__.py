"""Unit tests of business requests."""
