"""Metrics of intake."""

from typing import Final

from prometheus_client import Counter, Gauge

ITEMS: Final = Counter("piepowder_intake_items_total", "Posted items, by status of the response", ["outcome"])
WITHDRAWALS: Final = Counter(
    "piepowder_intake_withdrawals_total", "Withdrawals, by status of the response", ["outcome"]
)
NOTICES: Final = Counter("piepowder_intake_notices_total", "Notices, by status of the response", ["outcome"])
CLIENTS_RESTORED: Final = Counter(
    "piepowder_intake_clients_restored_total",
    "Clients whose published state replaced an older one of the database, as after its restore",
)
APPEALS: Final = Counter("piepowder_intake_appeals_total", "Appeals, by status of the response", ["outcome"])
INTAKE_PENDING: Final = Gauge("piepowder_intake_pending_records", "Records waiting for Kafka's acknowledgement")
OLDEST_SUBMITTED: Final = Gauge(
    "piepowder_intake_oldest_submitted_seconds",
    "Age of the oldest item, notice or appeal with the status `submitted`, or withdrawal of an item whose case is still"
    " open; 0 when there is none",
    ["region"],
)
INTAKE_DEADLETTERS_IGNORED: Final = Counter(
    "piepowder_intake_unattributed_deadletters_total",
    "Dead letters of the router and decision that name no item, notice or appeal",
    ["region"],
)
