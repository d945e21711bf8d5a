"""Tests: unit/decision."""
