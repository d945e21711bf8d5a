"""Unit tests of shared.contracts."""
