"""Public contracts: events, envelope, ids and topic names. Pure: no I/O, no framework."""
