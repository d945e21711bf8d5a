"""Property tests of the router."""
