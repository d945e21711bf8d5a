"""Unit tests of decision's domain."""
