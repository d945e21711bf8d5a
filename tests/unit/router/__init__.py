"""Tests: unit/router."""
