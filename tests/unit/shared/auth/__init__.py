"""Unit tests of shared.auth."""
