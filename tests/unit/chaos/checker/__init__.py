"""Unit tests of the checker of a chaos run."""
