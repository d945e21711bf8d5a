"""The rules of cases, leases, decisions and appeals, without I/O."""
