"""Tests: property/audit."""
