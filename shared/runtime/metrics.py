"""Metrics of every service. A service's own metrics are in `services/<name>/metrics.py`; docs/metrics.md lists all.

No metric has a label for a client, user, subject or case: their number has no limit. Hot paths resolve a label
combination once, and count once per batch.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

READY: Final = Gauge("piepowder_ready", "1 when the service can do its work, else 0", ["service"])
CONTROL_IN_FORCE: Final = Gauge(
    "piepowder_control_number", "Number of the operating model or policy set in force", ["entity"]
)
CONTROL_REFUSED: Final = Counter("piepowder_control_refused_total", "Unusable records of the control topic", ["entity"])

# REST
HTTP_REQUESTS: Final = Counter(
    "piepowder_http_requests_total", "REST requests, by status of the response", ["route", "method", "status"]
)
HTTP_SECONDS: Final = Histogram(
    "piepowder_http_request_seconds", "Duration of a REST request", ["route", "method"], buckets=_SECONDS
)
ACCESS_REFUSED: Final = Counter(
    "piepowder_access_refused_total", "REST requests refused because of their caller, by reason", ["reason"]
)
OIDC_REFRESHES: Final = Counter(
    "piepowder_oidc_refreshes_total", "Downloads of the token issuer's signing keys", ["outcome"]
)

# Servers
KAFKA_BROKER_RESPONDS: Final = Gauge(
    "piepowder_kafka_broker_responds", "1 when this process gets a response from a broker of Kafka, else 0", ["broker"]
)
DATABASE_RESPONDS: Final = Gauge(
    "piepowder_database_responds",
    "1 when this process can use its database on a PostgreSQL server; 0 when the server does not respond or is"
    " read-only, or the database is missing or has lost its schema",
    ["server"],
)

# Kafka consumers
CONSUMED: Final = Counter("piepowder_consumed_records_total", "Records handled and committed", ["group", "topic"])
CONSUME_SECONDS: Final = Histogram(
    "piepowder_consume_batch_seconds", "Time to handle a batch of records", ["group"], buckets=_SECONDS
)
CONSUMER_LAG: Final = Gauge(
    "piepowder_consumer_lag_seconds", "Age of the oldest unhandled record; 0 when there is none", ["group", "topic"]
)
POSITIONS_CHANGED: Final = Counter(
    "piepowder_positions_changed_total", "Batches dropped because the stored positions had changed", ["group"]
)
RECORDS_BEHIND: Final = Gauge(
    "piepowder_records_behind", "Records to handle again after a restore of the database", ["group"]
)
RETRIES: Final = Counter("piepowder_consumer_retries_total", "Retries of a batch after a transient failure", ["group"])
DEADLETTERED: Final = Counter("piepowder_deadlettered_records_total", "Dead-lettered records", ["group", "topic"])
STOPPED_PARTITIONS: Final = Gauge(
    "piepowder_stopped_partitions",
    "Partitions that a consumer does not read until an operator acts",
    ["group", "topic", "reason"],
)
PARKED_KEYS: Final = Gauge("piepowder_parked_keys", "Keys whose records wait behind a dead-lettered record", ["group"])
INVALID_PARKED_KEYS: Final = Gauge(
    "piepowder_invalid_parked_entries", "Records among a group's parked keys that are none, and are ignored", ["group"]
)
RETURNED: Final = Counter(
    "piepowder_returned_records_total", "Dead-lettered records that were replayed and handled", ["group", "topic"]
)

# Kafka producers and the outbox
PRODUCED: Final = Counter("piepowder_produced_records_total", "Records acknowledged by all in-sync replicas", ["topic"])
PRODUCE_FAILURES: Final = Counter("piepowder_produce_failures_total", "Records not acknowledged", ["topic"])
OUTBOX_DEPTH: Final = Gauge("piepowder_outbox_records", "Events in the outbox, not published yet", ["service"])
OUTBOX_OLDEST: Final = Gauge(
    "piepowder_outbox_oldest_seconds",
    "Age of the oldest event that is not published yet: what a loss of the database would lose; 0 when there is none",
    ["service"],
)
OUTBOX_PUBLISHED: Final = Counter("piepowder_outbox_published_total", "Events published from the outbox", ["service"])
