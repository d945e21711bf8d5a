"""Tests: property/intake."""
