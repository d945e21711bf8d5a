"""The REST API of the decision service: queues, cases, claims, leases, decisions, totals."""

from fastapi import FastAPI

from services.decision.api import decisions, leases, reads


def include_routes(app: FastAPI) -> None:
    """Add the routes."""
    for router in (reads.router, leases.router, decisions.router):
        app.include_router(router)
