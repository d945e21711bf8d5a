"""What every service tells those that watch it: whether it lives, whether it can work and what it lacks, its metrics.

They ask for no key, and stand in each service's OpenAPI document.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Metric, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from shared.runtime.readiness import Readiness

_ONE_SERVICES: Final = re.compile(r"piepowder_(audit|decision|intake|router)_")


class OwnMetrics(Collector):
    """What this process has measured; the catalogue, which all services share, names more."""

    def __init__(self, service: str) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """The families with a sample, but for those that bear another service's name."""
        for family in REGISTRY.collect():
            named = _ONE_SERVICES.match(family.name)
            if family.samples and (named is None or named[1] == self._service):
                yield family


def add_probes(app: FastAPI, service: str, readiness: Readiness) -> None:
    """Add `/healthz`, `/readyz` and `/metrics`, and their descriptions."""
    own_metrics = OwnMetrics(service)

    async def healthz(_: Request) -> Response:
        return _json({"status": "alive", "service": service})

    async def readyz(_: Request) -> Response:
        ready = readiness.ready
        found = {"ready": ready, "service": service, "conditions": readiness.conditions}
        return _json(found, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(own_metrics), media_type=CONTENT_TYPE_LATEST)

    app.add_route("/healthz", healthz)
    app.add_route("/readyz", readyz)
    app.add_route("/metrics", metrics)
    generate, described = app.openapi, _described(service)

    def with_probes() -> dict[str, Any]:
        document = generate()
        document["paths"] = described | document["paths"]
        return document

    app.openapi = with_probes  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def _described(service: str) -> dict[str, Any]:
    alive = {"status": "alive", "service": service}
    ready = {"ready": True, "service": service, "conditions": {"control": "ok"}}
    lacking = {"ready": False, "service": service, "conditions": {"control": "the control topic is not read yet"}}
    sample = f'# TYPE piepowder_ready gauge\npiepowder_ready{{service="{service}"}} 1.0\n'
    return {
        "/healthz": _get("healthz", "Whether it lives", {"200": _answer("It does", alive)}),
        "/readyz": _get(
            "readyz",
            "Whether it can do its work, and what it lacks",
            {"200": _answer("It can", ready), "503": _answer("It lacks what is not `ok`", lacking)},
        ),
        "/metrics": _get("metrics", "All that it has measured", {"200": _answer("As Prometheus reads it", sample)}),
    }


def _get(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"operationId": name, "summary": summary, "security": [], "responses": responses}}


def _answer(description: str, example: object) -> dict[str, Any]:
    kind, schema = ("text/plain", "string") if isinstance(example, str) else ("application/json", "object")
    return {"description": description, "content": {kind: {"schema": {"type": schema}, "example": example}}}
