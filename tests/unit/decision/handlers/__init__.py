"""Unit tests of decision's handlers."""
