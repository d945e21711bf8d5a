"""Tests: property/piepowder."""
