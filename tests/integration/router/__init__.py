"""Tests: integration/router."""
