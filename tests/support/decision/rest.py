"""The decision service's REST API in the test process."""

from typing import Any, Protocol

import httpx

from services.decision import api
from services.decision.api.dependencies import ReviewService, available_reviews
from services.decision.handlers.control import ReasonsInForce
from services.decision.handlers.decisions import DecideCases
from services.decision.handlers.leases import LeaseCases
from shared.auth.authenticator import Authenticator
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from shared.http.app import create_app
from shared.runtime.readiness import Readiness
from tests.support.decision.service import REGION

REVIEWER = {"reviewer": "r-1", "team": "in_house"}


class UseCasesAndReads(Protocol):
    """The use cases on PostgreSQL or in memory."""

    @property
    def store(self) -> Any: ...

    @property
    def leases(self) -> LeaseCases: ...

    @property
    def decisions(self) -> DecideCases: ...

    @property
    def reasons(self) -> ReasonsInForce: ...


def api_client(
    service: UseCasesAndReads | None,
    *scopes: str,
    regions: frozenset[str] = frozenset({"*"}),
) -> httpx.AsyncClient:
    """A client with a key for these scopes (default: all) and regions; without `service`, there is no database."""
    readiness = Readiness("decision")
    readiness.set("database", "not connected yet")
    app = create_app("decision", "", readiness)
    secret = ids.new_api_key("test")
    scopes = scopes or ("reviews:read", "reviews:write")
    client = ClientEntry("console", ids.hash_api_key(secret), frozenset(scopes), regions)
    app.state.authenticator = Authenticator([client], regions=[REGION])
    api.include_routes(app)
    if service is not None:
        available_reviews.provide(
            app, ReviewService(REGION, service.store, service.leases, service.decisions, service.reasons)
        )
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://decision", headers={"Authorization": f"Bearer {secret}"}
    )
