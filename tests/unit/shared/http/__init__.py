"""Tests: unit/shared/http."""
