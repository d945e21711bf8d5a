"""Tests: property/deploy."""
