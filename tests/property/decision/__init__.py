"""Property tests of the decision service."""
