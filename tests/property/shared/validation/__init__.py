"""Property tests of the shared packages."""
