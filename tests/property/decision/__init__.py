"""Tests: property/decision."""
