"""The decision service's REST API in the test's own process."""

import httpx

from services.decision import api
from shared.auth.authenticator import Authenticator
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from shared.http.http import create_app
from shared.runtime.readiness import Readiness
from tests.support.decision.service import REGION, Service

REVIEWER = {"reviewer": "r-1", "team": "in_house"}


def api_client(service: Service | None, *scopes: str, regions: frozenset[str] = frozenset({"*"})) -> httpx.AsyncClient:
    """A client with a key for these scopes (all by default) and regions; without a `service`, there is no database."""
    readiness = Readiness("decision")
    readiness.set("database", "not connected yet")
    app = create_app("decision", "", readiness)
    desk = api.Desk(REGION, readiness)
    secret = ids.new_api_key("test")
    client = ClientEntry("console", ids.hash_api_key(secret), frozenset(scopes or (api.READ, api.WRITE)), regions)
    api.add_routes(app, desk, Authenticator([client]))
    if service is not None:
        desk.open(service.store, service.leases, service.decisions)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://decision", headers={"Authorization": f"Bearer {secret}"}
    )
