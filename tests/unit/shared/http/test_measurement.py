"""The counter of an operation's responses."""

from typing import Annotated

import httpx
from fastapi import APIRouter, Depends, Security
from prometheus_client import CollectorRegistry, Counter

from shared.auth.api_key import api_key
from shared.auth.authenticator import Authenticator
from shared.auth.clients_file import ClientEntry
from shared.auth.principal import Principal
from shared.contracts import ids
from shared.http.app import create_app
from shared.http.measurement import CountOutcomes
from shared.http.models import Body
from shared.http.route import Available, StrictRoute
from shared.runtime.readiness import Readiness
from shared.validation.faults import INVALID_REQUEST

KEY = ids.new_api_key("test")
REGISTRY = CollectorRegistry()
OUTCOMES = Counter("things", "Things, by status", ["outcome"], registry=REGISTRY)
Writer = Annotated[Principal, Security(api_key, scopes=["a:write"])]
available_name = Available[str]("name")
router = APIRouter(prefix="/v1", route_class=StrictRoute)


class ThingBody(Body):
    name: str


@router.post("/things", status_code=202, max_body_size=100, dependencies=[Depends(CountOutcomes(OUTCOMES))])
async def post_thing(_: Writer, known: Annotated[str, Depends(available_name)], body: ThingBody) -> None:
    if body.name != known:
        raise INVALID_REQUEST("unknown", "/name")


async def test_the_responses_of_an_operation_are_counted_by_status_except_those_to_a_refused_caller() -> None:
    app = create_app("test", "", Readiness("test"))
    entry = ClientEntry("shop", ids.hash_api_key(KEY), frozenset({"a:write"}), frozenset({"eu"}))
    app.state.authenticator = Authenticator([entry])
    app.include_router(router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = {"authorization": f"Bearer {KEY}"}
        assert (await client.post("/v1/things", json={"name": "a"}, headers=headers)).status_code == 503
        available_name.provide(app, "a")
        calls = [
            await client.post("/v1/things", json={"name": "a"}),
            await client.post("/v1/things?x=1", json={"name": "a"}, headers=headers),
            await client.post("/v1/things", json={"name": "a"}, headers=headers),
            await client.post("/v1/things", json={"name": "a"}, headers=headers),
            await client.post("/v1/things", json={"name": "b"}, headers=headers),
            await client.post("/v1/things", json={"name": 1}, headers=headers),
            await client.post("/v1/things", content=b"{", headers=headers),
            await client.post("/v1/things", json={"name": "a" * 100}, headers=headers),
        ]
    assert [call.status_code for call in calls] == [401, 422, 202, 202, 422, 422, 415, 413]
    counted = {
        sample.labels["outcome"]: sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "things_total"
    }
    assert counted == {"202": 2, "422": 2, "415": 1, "413": 1}
