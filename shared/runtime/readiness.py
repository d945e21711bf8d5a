"""Readiness of a service: its loops report their conditions, and `/readyz` and a metric show the result."""

from shared.runtime import metrics


class Readiness:
    """The conditions of a service. The service is ready when all are met."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._missing: dict[str, str | None] = {}
        metrics.READY.labels(service).set_function(lambda: float(self.ready))

    def set(self, condition: str, missing: str | None) -> None:
        """Report a condition: `missing` says why it is not met; None if it is met."""
        self._missing[condition] = missing

    @property
    def ready(self) -> bool:
        return all(missing is None for missing in self._missing.values())

    @property
    def conditions(self) -> dict[str, str]:
        """Every condition, with `ok` or the reason why it is not met."""
        return {name: missing or "ok" for name, missing in self._missing.items()}
