"""Property tests of the domain of business requests."""
