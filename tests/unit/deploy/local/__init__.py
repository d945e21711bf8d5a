"""Tests: unit/deploy/local."""
