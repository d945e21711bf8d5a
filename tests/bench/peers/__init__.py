"""The router's stage as others would write it: the same decoding, policies and encoding, another way through Kafka.

Each is a process of its own: `python -m tests.bench.peers.<name> BOOTSTRAP SOURCE TARGET GROUP`. What it does between
Kafka and Kafka is `routing.Routing`; all that it is measured by is how records come, go and are acknowledged. Each
waits for `acks=all` from an idempotent producer before it commits, compresses as the services do, and keeps a subject's
records in one partition by the same CRC-32. Neither has what the router has besides: dead letters, retries in place,
a bounded drain when partitions move, readiness, metrics, control records read while it runs.
"""
