"""Tests: integration/decision."""
