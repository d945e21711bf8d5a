"""Tests: integration/audit."""
