"""The tests: they read as sentences and say which promise they keep."""
