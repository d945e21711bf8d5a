"""Metrics of the router."""

from typing import Final

from prometheus_client import Counter, Gauge

CASES_ROUTED: Final = Counter("piepowder_router_cases_total", "Opened cases", ["region", "queue", "verdict"])
WITHDRAWALS_ROUTED: Final = Counter("piepowder_router_withdrawals_total", "Forwarded withdrawals", ["region"])
POLICY_ERRORS: Final = Counter("piepowder_router_policy_errors_total", "Conditions that failed to evaluate", ["policy"])
CEL_FALLBACKS: Final = Counter(
    "piepowder_router_cel_fallbacks_total",
    "Evaluations that were left to CEL because of an item: a `condition` failed; the item has a large `number`; the"
    " generated `function` failed, which is a defect",
    ["reason"],
)
SLOW_CONDITIONS: Final = Gauge(
    "piepowder_router_slow_conditions", "Conditions of the policy set in force that only CEL can evaluate"
)
