"""Unit tests of shared.validation."""
