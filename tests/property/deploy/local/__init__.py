"""Property tests of the local stack."""
