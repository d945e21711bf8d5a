"""Unit tests of the status projection."""
