"""Property tests of business requests."""
