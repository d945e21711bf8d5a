"""Tests: integration/deploy."""
