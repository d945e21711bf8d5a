"""Unit tests of clients."""
