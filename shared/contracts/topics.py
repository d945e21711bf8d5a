"""Topic names. `deploy/kafka/topics.yaml` has their partitions, replication and retention."""

from typing import Final

CONTROL: Final = "piepowder.control"


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
