"""The audit: every event of a region, once, in one append-only log."""
