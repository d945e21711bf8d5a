"""Readiness of a service: its loops report their conditions, and `/readyz` and a metric show the result."""

from collections.abc import Mapping

from shared.runtime import metrics


class Readiness:
    """The conditions of a service. The service is ready when all are met."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._missing: dict[str, str | None] = {}
        self._stopped: dict[str, Mapping[str, str]] = {}
        metrics.READY.labels(service).set_function(lambda: float(self.ready))

    def set(self, condition: str, missing: str | None) -> None:
        """Report a condition: `missing` says why it is not met; None if it is met."""
        self._missing[condition] = missing

    def set_stopped(self, group: str, topics: Mapping[str, str]) -> None:
        """Report the topics of which a consumer group does not read some partitions, each with the reason.

        The service stays ready: its REST calls, its other topics and its other regions do not depend on them.
        """
        self._stopped[group] = topics

    @property
    def ready(self) -> bool:
        return all(missing is None for missing in self._missing.values())

    @property
    def conditions(self) -> dict[str, str]:
        """Every condition, with `ok` or the reason why it is not met."""
        return {name: missing or "ok" for name, missing in self._missing.items()}

    @property
    def stopped(self) -> dict[str, dict[str, str]]:
        """The partitions that are not read, and the reason, by group and topic; without groups that read everything."""
        return {group: dict(topics) for group, topics in self._stopped.items() if topics}
