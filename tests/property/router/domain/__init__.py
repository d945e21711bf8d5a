"""Property tests of the router's domain."""
