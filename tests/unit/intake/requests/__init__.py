"""Tests: unit/intake/requests."""
