"""Property tests of the import of files."""
