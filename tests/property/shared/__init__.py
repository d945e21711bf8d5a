"""Tests: property/shared."""
