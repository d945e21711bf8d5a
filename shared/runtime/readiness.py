"""Whether a service can do its work, and what it lacks: its loops say it, `/readyz` and a metric tell it."""

from shared.runtime import metrics


class Readiness:
    """What the service still lacks, by condition; ready when it lacks nothing."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._lacks: dict[str, str | None] = {}
        metrics.READY.labels(service).set_function(lambda: float(self.ready))

    def set(self, condition: str, lacking: str | None) -> None:
        """Say what `condition` lacks, None for nothing."""
        self._lacks[condition] = lacking

    @property
    def ready(self) -> bool:
        return all(lacking is None for lacking in self._lacks.values())

    @property
    def conditions(self) -> dict[str, str]:
        """Every condition, `ok` or what it lacks."""
        return {name: lacking or "ok" for name, lacking in self._lacks.items()}
