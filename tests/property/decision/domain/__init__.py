"""Property tests of decision's domain."""
