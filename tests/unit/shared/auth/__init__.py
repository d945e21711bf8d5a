"""Tests: unit/shared/auth."""
