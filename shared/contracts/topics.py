"""Topic names. `deploy/kafka/topics.yaml` has their partitions, replication and retention; a test compares the two."""

from typing import Final

CONTROL: Final = "piepowder.control"


def submissions(region: str) -> str:
    """The accepted items, notices, appeals and withdrawals of a region."""
    return f"piepowder.submissions.{region}"


def cases(region: str) -> str:
    """The opened cases of a region."""
    return f"piepowder.cases.{region}"


def decisions(region: str) -> str:
    """The decisions of a region, and the state changes of its cases."""
    return f"piepowder.decisions.{region}"


def requests(region: str) -> str:
    """The state changes of a region's business requests."""
    return f"piepowder.requests.{region}"


def access(region: str) -> str:
    """Refused calls and used keys, from the services that a region's clients call."""
    return f"piepowder.access.{region}"


def deadletters(region: str) -> str:
    """The records that a region's consumers cannot handle."""
    return f"piepowder.deadletters.{region}"


def parked(region: str) -> str:
    """The parked keys of a region's consumer groups."""
    return f"piepowder.parked.{region}"


def region_of(topic: str) -> str:
    """The region in the name of a regional topic."""
    return topic.split(".", 2)[2]


REGIONAL: Final = (submissions, cases, decisions, requests, access, deadletters, parked)


def of_region(region: str) -> list[str]:
    """Every topic of a region; a test compares them with `deploy/kafka/topics.yaml`."""
    return [topic(region) for topic in REGIONAL]
