"""The audit service: everything that happened in a region, in one append-only log, once."""
