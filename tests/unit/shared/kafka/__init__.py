"""Tests: unit/shared/kafka."""
