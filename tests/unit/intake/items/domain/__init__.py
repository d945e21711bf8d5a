"""Unit tests of the domain of items."""
