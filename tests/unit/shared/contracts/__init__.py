"""Tests: unit/shared/contracts."""
