"""Tests: unit/intake/items."""
