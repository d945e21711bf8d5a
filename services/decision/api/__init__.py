"""The REST API of the decision service: queues, cases, claims, leases, decisions, totals."""

from fastapi import FastAPI

from services.decision.api import decisions, leases, reads
from services.decision.api.rejections import on_command_rejected
from services.decision.domain.lifecycle import CommandRejected


def include_routes(app: FastAPI) -> None:
    """Add the routes, and the responses to rejected commands."""
    for router in (reads.router, leases.router, decisions.router):
        app.include_router(router)
    app.add_exception_handler(CommandRejected, on_command_rejected)
