"""Property tests of items."""
