"""The conditions and results of the queries of business requests."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

from services.intake.requests.domain.lifecycle import Request

RequestCursor: TypeAlias = tuple[datetime, str]


class RequestFilter(NamedTuple):
    """The conditions of a list: requests in one of `regions` (None: all) with the given values."""

    regions: Sequence[str] | None = None
    state: str | None = None
    kind: str | None = None
    sponsor: str | None = None
    region: str | None = None


class Drafted(NamedTuple):
    """A request as it was created, and the hash of the posted body."""

    request: Request
    body: str
