"""Tests: unit/intake/notices."""
