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
    """Where intake puts what was accepted for a region."""
    return f"piepowder.submissions.{region}"


def cases(region: str) -> str:
    """Where the router puts a region's cases."""
    return f"piepowder.cases.{region}"


def decisions(region: str) -> str:
    """Where a region's decisions and its cases' lives are told."""
    return f"piepowder.decisions.{region}"


def requests(region: str) -> str:
    """Where intake tells the lives of a region's business requests."""
    return f"piepowder.requests.{region}"


def access(region: str) -> str:
    """Where the services that a region's clients call tell whom they refused, and which keys were used."""
    return f"piepowder.access.{region}"


def deadletters(region: str) -> str:
    """Where a region's poison records are kept whole."""
    return f"piepowder.deadletters.{region}"


def parked(region: str) -> str:
    """Where a region's consumer groups keep which keys they have parked."""
    return f"piepowder.parked.{region}"
