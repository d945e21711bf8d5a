"""Tests: unit/piepowder."""
