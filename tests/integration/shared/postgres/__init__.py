"""Tests: integration/shared/postgres."""
