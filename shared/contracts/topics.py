"""Topic names. `deploy/kafka/topics.yaml` has their partitions, replication and retention."""

from typing import Final

CONTROL: Final = "piepowder.control"


def submissions(region: str) -> str:
    """Accepted items, withdrawals, notices and appeals of a region."""
    return f"piepowder.submissions.{region}"


def cases(region: str) -> str:
    """A region's routed cases."""
    return f"piepowder.cases.{region}"


def decisions(region: str) -> str:
    """A region's decisions, and the lifecycle of its cases."""
    return f"piepowder.decisions.{region}"


def requests(region: str) -> str:
    """The lifecycle of a region's business requests."""
    return f"piepowder.requests.{region}"


def access(region: str) -> str:
    """Refused requests and used API keys, from the services that a region's clients call."""
    return f"piepowder.access.{region}"


def deadletters(region: str) -> str:
    """Records of a region that could not be handled, whole."""
    return f"piepowder.deadletters.{region}"


def parked(region: str) -> str:
    """Keys that a region's consumer groups have parked."""
    return f"piepowder.parked.{region}"
