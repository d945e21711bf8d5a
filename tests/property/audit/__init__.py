"""Property tests of the audit service."""
