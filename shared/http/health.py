"""`/healthz`, `/readyz` and `/metrics` of a service. They need no key and are part of its OpenAPI document."""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Metric, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse, Response

from shared.runtime.readiness import Readiness


class OwnMetrics(Collector):
    """The metrics of this process that have a sample."""

    def collect(self) -> Iterator[Metric]:
        return (family for family in REGISTRY.collect() if family.samples)


def router(service: str, readiness: Readiness) -> APIRouter:
    """The three routes."""
    routes = APIRouter()
    own_metrics = OwnMetrics()
    alive = {"status": "alive", "service": service}
    ready = {"ready": True, "service": service, "conditions": {"control": "ok"}}
    not_ready = {"ready": False, "service": service, "conditions": {"control": "the control topic is not read yet"}}
    sample = f'# TYPE piepowder_ready gauge\npiepowder_ready{{service="{service}"}} 1.0\n'

    @routes.get(
        "/healthz", summary="Liveness probe", response_class=JSONResponse, responses={200: _documented("Alive", alive)}
    )
    async def healthz() -> Response:
        return JSONResponse(alive)

    @routes.get(
        "/readyz",
        summary="Readiness probe: names each missing condition",
        description="`stopped` has, by consumer group and topic, the partitions that wait for an operator, and why. The"
        " service is ready all the same: everything else works.",
        response_class=JSONResponse,
        responses={200: _documented("Ready", ready), 503: _documented("Not ready", not_ready)},
    )
    async def readyz() -> Response:
        found: dict[str, object] = {"ready": readiness.ready, "service": service, "conditions": readiness.conditions}
        if readiness.stopped:
            found["stopped"] = readiness.stopped
        return JSONResponse(found, 200 if readiness.ready else 503)

    @routes.get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        response_class=Response,
        responses={200: _documented("Metrics", sample)},
    )
    async def metrics() -> Response:
        return Response(generate_latest(own_metrics), media_type=CONTENT_TYPE_LATEST)

    return routes


def _documented(description: str, example: object) -> dict[str, Any]:
    kind, schema = ("text/plain", "string") if isinstance(example, str) else ("application/json", "object")
    return {"description": description, "content": {kind: {"schema": {"type": schema}, "example": example}}}
