"""Topic names. `deploy/kafka/topics.yaml` has their partitions, replication and retention."""

from typing import Final

CONTROL: Final = "piepowder.control"


_REGIONAL: Final = ("submissions", "cases", "decisions", "requests", "access", "deadletters", "parked")


def of_region(region: str) -> list[str]:
    """Every topic of a region; a test compares them with `deploy/kafka/topics.yaml`."""
    return [f"piepowder.{name}.{region}" for name in _REGIONAL]


def audited(region: str) -> list[str]:
    """The topics whose events the audit log of a region contains: all but the consumers' own state."""
    return [*(topic for topic in of_region(region) if topic != parked(region)), CONTROL]


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
