"""The problem types of refused calls."""

from typing import Any, Final

from shared.http.problems import ProblemType
from shared.validation.faults import RETRY_AFTER

_RATE_LIMIT_HEADERS: Final[dict[str, Any]] = {
    **RETRY_AFTER,
    "RateLimit": {
        "description": "The remaining quota (`r`), and the seconds until the whole quota is available (`t`)",
        "schema": {"type": "string"},
        "example": '"requests";r=0;t=2',
    },
    "RateLimit-Policy": {
        "description": "The quota (`q`), and its time window in seconds (`w`)",
        "schema": {"type": "string"},
        "example": '"requests";q=400;w=2',
    },
}

UNAUTHORIZED: Final = ProblemType(
    "unauthorized", 401, "Not authenticated", "No API key: send it as `Authorization: Bearer pp_...`."
)
RATE_LIMITED: Final = ProblemType(
    "rate-limited",
    429,
    "Too many calls",
    "Client 'shop' may make 200 calls a second, 400 at once.",
    _RATE_LIMIT_HEADERS,
)
