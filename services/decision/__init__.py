"""Decision: the cases of a region, their leases and their decisions. Only this service makes decisions."""
