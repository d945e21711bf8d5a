"""Unit tests of the router's domain."""
