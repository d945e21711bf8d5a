"""Tests: property/router."""
