"""Tests: integration/shared/auth."""
