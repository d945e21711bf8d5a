"""Tests: integration/shared."""
