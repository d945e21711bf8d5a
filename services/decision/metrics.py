"""Metrics of decision."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_HOURS: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 4 * 3600.0, 24 * 3600.0, 72 * 3600.0)

CASES_OPEN: Final = Gauge(
    "piepowder_decision_open_cases", "Open cases, waiting or claimed", ["region", "queue", "state"]
)
CASES_OVERDUE: Final = Gauge("piepowder_decision_overdue_cases", "Open cases past their due time", ["region", "queue"])
DECISIONS: Final = Counter(
    "piepowder_decision_decisions_total",
    "Decisions; `by` is `policy`, `people`, or `appeals` (people, about an appeal)",
    ["region", "queue", "action", "by"],
)
DECISION_AGE: Final = Histogram(
    "piepowder_decision_age_seconds",
    "Time from the receipt of an item, notice or appeal to its decision; `by` is `policy` or `people`",
    ["region", "by"],
    buckets=_HOURS,
)
CASES_CLOSED: Final = Counter(
    "piepowder_decision_closed_total", "Cases closed without a decision, by reason", ["region", "reason"]
)
CASES_REOPENED: Final = Counter(
    "piepowder_decision_reopened_total",
    "Ignored events that open a stored case again, after a repetition of the router under other rules",
    ["region"],
)
CLAIMS_REFUSED: Final = Counter(
    "piepowder_decision_claims_refused_total",
    "Claims refused because the reviewer or the client holds as many leases as allowed; `limit` is `reviewer` or"
    " `client`",
    ["region", "limit"],
)
LEASES: Final = Counter("piepowder_decision_leases_total", "Leases, by their outcome", ["region", "outcome"])
LOST_IN_RESTORE: Final = Counter(
    "piepowder_decision_lost_in_restore_total",
    "Commands with a lease that was lost when the database was restored",
    ["region"],
)
RECOVERED_EVENTS: Final = Counter(
    "piepowder_decision_recovered_events_total",
    "Events of the own topic that the restored database did not contain",
    ["region"],
)
INCARNATION: Final = Gauge(
    "piepowder_decision_incarnation",
    "Number of recoveries after a start of PostgreSQL or a restore of the region's database",
    ["region"],
)
