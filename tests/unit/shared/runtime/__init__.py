"""Tests: unit/shared/runtime."""
