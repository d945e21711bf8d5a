"""Tests: unit/intake/clients."""
