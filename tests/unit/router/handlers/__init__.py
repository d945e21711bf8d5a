"""Unit tests of the router's handlers."""
