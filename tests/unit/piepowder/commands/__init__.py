"""Unit tests of the command's nouns."""
