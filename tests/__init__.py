"""The tests; each name is a sentence that states the verified guarantee."""
