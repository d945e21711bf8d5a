"""Unit tests of publishing to several clusters."""
