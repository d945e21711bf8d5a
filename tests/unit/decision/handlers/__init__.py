"""Tests: unit/decision/handlers."""
