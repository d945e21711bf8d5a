"""Other implementations of the router's stage: the same decoding, policies and encoding, another use of Kafka.

Each peer is a process: `python -m tests.bench.peers.<name> BOOTSTRAP SOURCE TARGET GROUP`. The work between input and
output is `routing.Routing`; only the reading, sending and committing differ. Each waits for `acks=all` from an
idempotent producer before it commits, compresses like the services, and keeps the records of a subject in one partition
by the same CRC-32. No peer has the router's other features: dead letters, retries in place, a bounded drain when
partitions move, readiness, metrics, control records that are read at run time.
"""
