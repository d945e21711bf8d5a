"""Tests: integration/intake."""
