"""Property tests of the deployment."""
