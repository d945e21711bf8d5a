"""Tests: integration/shared/kafka."""
