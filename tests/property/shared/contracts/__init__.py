"""Property tests of the contracts."""
