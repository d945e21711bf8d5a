"""Unit tests of notices and appeals."""
