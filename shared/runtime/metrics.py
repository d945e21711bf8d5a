"""The metrics catalogue: every metric of every service, in one place, typed.

No label by client, user, subject or case: those have no bound. Hot paths resolve a child once and count per batch.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_HOURS: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 4 * 3600.0, 24 * 3600.0, 72 * 3600.0)

# every service
READY: Final = Gauge("piepowder_ready", "1 when the service can do its work, else 0", ["service"])
HTTP_REQUESTS: Final = Counter("piepowder_http_requests_total", "REST calls answered", ["route", "method", "status"])
HTTP_SECONDS: Final = Histogram(
    "piepowder_http_request_seconds", "Time to answer a REST call", ["route", "method"], buckets=_SECONDS
)
ACCESS_REFUSED: Final = Counter(
    "piepowder_access_refused_total", "REST calls refused for who calls, by reason", ["reason"]
)
OIDC_REFRESHES: Final = Counter(
    "piepowder_oidc_refreshes_total", "Times the issuer of people's tokens was asked for its keys", ["outcome"]
)

# Kafka
CONSUMED: Final = Counter("piepowder_consumed_records_total", "Records handled and committed", ["group", "topic"])
CONSUME_SECONDS: Final = Histogram(
    "piepowder_consume_batch_seconds", "Time to handle one batch of records", ["group"], buckets=_SECONDS
)
CONSUMER_LAG: Final = Gauge(
    "piepowder_consumer_lag_seconds", "Age of the oldest record not yet handled; 0 when caught up", ["group", "topic"]
)
RETRIES: Final = Counter("piepowder_consumer_retries_total", "Batches tried again in place", ["group"])
DEADLETTERED: Final = Counter("piepowder_deadlettered_records_total", "Records set aside", ["group", "topic"])
PARKED_KEYS: Final = Gauge("piepowder_parked_keys", "Keys whose records wait behind one that was set aside", ["group"])
RETURNED: Final = Counter(
    "piepowder_returned_records_total", "Records that were set aside, put back and handled", ["group", "topic"]
)
PRODUCED: Final = Counter("piepowder_produced_records_total", "Records acknowledged by all in-sync replicas", ["topic"])
PRODUCE_FAILURES: Final = Counter("piepowder_produce_failures_total", "Records not acknowledged", ["topic"])

# intake
ITEMS: Final = Counter("piepowder_intake_items_total", "Items answered, by outcome (an answer's status)", ["outcome"])
WITHDRAWALS: Final = Counter(
    "piepowder_intake_withdrawals_total", "Withdrawals answered, by outcome (an answer's status)", ["outcome"]
)
NOTICES: Final = Counter(
    "piepowder_intake_notices_total", "Notices answered, by outcome (an answer's status)", ["outcome"]
)
APPEALS: Final = Counter(
    "piepowder_intake_appeals_total", "Appeals answered, by outcome (an answer's status)", ["outcome"]
)
INTAKE_PENDING: Final = Gauge("piepowder_intake_pending_records", "Records waiting for Kafka's acknowledgement")
INTAKE_DEADLETTERS_IGNORED: Final = Counter(
    "piepowder_intake_unattributed_deadletters_total", "Dead letters of an item's way that name no item", ["region"]
)

# router
CASES_ROUTED: Final = Counter("piepowder_router_cases_total", "Cases opened", ["region", "queue", "verdict"])
WITHDRAWALS_ROUTED: Final = Counter("piepowder_router_withdrawals_total", "Withdrawals passed on", ["region"])
POLICY_ERRORS: Final = Counter("piepowder_router_policy_errors_total", "Conditions that failed to evaluate", ["policy"])
CONTROL_IN_FORCE: Final = Gauge(
    "piepowder_control_number", "Number of the operating model or policy set in force", ["entity"]
)
CONTROL_REFUSED: Final = Counter(
    "piepowder_control_refused_total", "Control records that could not be used", ["entity"]
)

# decision
CASES_OPEN: Final = Gauge(
    "piepowder_decision_open_cases", "Cases waiting or held, by queue", ["region", "queue", "state"]
)
CASES_OVERDUE: Final = Gauge("piepowder_decision_overdue_cases", "Open cases past their due time", ["region", "queue"])
DECISIONS: Final = Counter(
    "piepowder_decision_decisions_total", "Decisions recorded", ["region", "queue", "action", "by"]
)
DECISION_AGE: Final = Histogram(
    "piepowder_decision_age_seconds",
    "Time from receipt of what a case is about to its decision",
    ["region", "by"],
    buckets=_HOURS,
)
CASES_CLOSED: Final = Counter(
    "piepowder_decision_closed_total", "Open cases that were closed undecided, by reason", ["region", "reason"]
)
LEASES: Final = Counter("piepowder_decision_leases_total", "Leases, by what became of them", ["region", "outcome"])
OUTBOX_DEPTH: Final = Gauge("piepowder_outbox_records", "Events written and not yet published", ["service"])
OUTBOX_PUBLISHED: Final = Counter("piepowder_outbox_published_total", "Events published by the relay", ["service"])

# audit
AUDITED: Final = Counter("piepowder_audit_events_total", "Events appended to the log", ["region", "topic"])
AUDIT_REPEATS: Final = Counter("piepowder_audit_repeats_total", "Events met again and left out", ["region"])
AUDIT_SIZE: Final = Gauge("piepowder_audit_log_size", "Entries in the log", ["region"])
