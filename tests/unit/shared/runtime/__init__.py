"""Unit tests of shared.runtime."""
