"""Metrics of the audit."""

from typing import Final

from prometheus_client import Counter, Gauge

AUDITED: Final = Counter("piepowder_audit_events_total", "Events appended to the log", ["region", "topic"])
AUDIT_REPEATS: Final = Counter("piepowder_audit_repeats_total", "Repeated events, not appended again", ["region"])
AUDIT_CONFLICTS: Final = Counter(
    "piepowder_audit_conflicts_total",
    "Events with the id of another event and other values, by the origin of the values: `content` of a client, `value`"
    " of a service",
    ["region", "reason"],
)
AUDIT_DISCARDED: Final = Counter(
    "piepowder_audit_discarded_deadletters_total", "Dead letters that an operator discarded", ["region"]
)
AUDIT_SIZE: Final = Gauge("piepowder_audit_log_size", "Events in the log", ["region"])
