"""Tests: unit/shared/validation."""
