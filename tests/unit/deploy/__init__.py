"""Unit tests of the deployment."""
