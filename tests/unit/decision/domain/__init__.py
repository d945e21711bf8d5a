"""Tests: unit/decision/domain."""
