"""Property tests of intake."""
