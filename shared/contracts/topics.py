"""Topic names. `deploy/kafka/topics.yaml` has their partitions, replication and retention; a test compares the two."""

from collections.abc import Callable
from typing import Final

CONTROL: Final = "piepowder.control"


def _regional(name: str) -> Callable[[str], str]:
    return lambda region: f"piepowder.{name}.{region}"


submissions: Final = _regional("submissions")
"""The accepted items, notices, appeals and withdrawals of a region."""

cases: Final = _regional("cases")
"""The cases that the router opens in a region."""

decisions: Final = _regional("decisions")
"""The decisions of a region, and the state changes of its cases."""

requests: Final = _regional("requests")
"""The state changes of a region's business requests."""

access: Final = _regional("access")
"""Refused calls and used keys, from the services that a region's clients call."""

deadletters: Final = _regional("deadletters")
"""The records that a region's consumers cannot handle."""

parked: Final = _regional("parked")
"""The parked keys of a region's consumer groups."""

REGIONAL: Final = (submissions, cases, decisions, requests, access, deadletters, parked)


def of_region(region: str) -> list[str]:
    """Every topic of a region; a test compares them with `deploy/kafka/topics.yaml`."""
    return [topic(region) for topic in REGIONAL]


def audited(region: str) -> list[str]:
    """The topics that a region's audit log records: all, except the consumers' own state."""
    return [CONTROL, *(topic(region) for topic in REGIONAL if topic is not parked)]
