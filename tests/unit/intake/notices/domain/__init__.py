"""Unit tests of the domain of notices and appeals."""
