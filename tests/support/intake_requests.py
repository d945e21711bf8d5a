"""Factories and fakes for tests of business requests, and their REST API on a store in memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
from fastapi import FastAPI

from services.intake.items.domain.ownership import MarketOwnership
from services.intake.problems import add_error_responses
from services.intake.requests import api
from services.intake.requests.domain import lifecycle
from services.intake.requests.domain.lifecycle import ChangeCheck, ProposedDifference, Request, RequestStep
from services.intake.requests.domain.queries import Drafted, RequestCursor, RequestFilter
from services.intake.requests.handlers import Requests
from services.intake.requests.store import cursor_of
from shared.auth.authenticator import Authenticator
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from shared.contracts.envelope import Encoded
from shared.contracts.events import OperatingModelPublished, ProposedChange, Queue, Region
from shared.http.app import create_app
from shared.runtime.clock import ManualClock
from shared.runtime.readiness import Readiness

POLICY_SET = {"policies": [{"id": "a", "when": ["true"], "verdict": "review"}], "default_verdict": "approve"}


def body(**change: Any) -> dict[str, Any]:
    """A draft that is complete for submission, with changed fields; None removes a field."""
    complete = {
        "title": "Look at lamps",
        "kind": "policy_change",
        "sponsor": "moderation-lead",
        "regions": ["eu"],
        "markets": ["DE"],
        "rationale": "They are too cheap.",
        "change": {"policy_set": POLICY_SET},
    }
    return {name: value for name, value in (complete | change).items() if value is not None}


def region(name: str, *markets: str) -> Region:
    """A region with one queue."""
    queue = Queue(id="general", service_level_minutes=60)
    return Region(id=name, markets=list(markets), queues=[queue], default_queue="general")


def ownership(*served: str) -> MarketOwnership:
    """Regions eu (DE, FR), us (US) and uk (GB)."""
    regions = [region("eu", "DE", "FR"), region("us", "US"), region("uk", "GB")]
    return MarketOwnership(OperatingModelPublished(id="om-1", number=1, published_by="x", regions=regions), served)


class FakeRouter:
    """Accepts every change; raises `error` if there is one, and responds only while `may_respond` is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.may_respond = asyncio.Event()
        self.may_respond.set()
        self.checked: list[ProposedChange] = []

    async def check(self, change: ProposedChange) -> ChangeCheck:
        self.checked.append(change)
        await self.may_respond.wait()
        if self.error is not None:
            raise self.error
        difference = ProposedDifference(what="policies/a", how="added")
        return ChangeCheck(
            verdict=lifecycle.FITS, operating_model="om-1", policy_set="ps-1", differing=1, differences=[difference]
        )


class MemoryWork:
    """A transaction on a `MemoryStore`: its changes are stored when it ends without an exception."""

    def __init__(self, store: "MemoryStore") -> None:
        self.store = store
        self.requests = dict(store.requests)
        self.changes = dict(store.changes)
        self.bodies = dict(store.bodies)
        self.steps = {name: list(steps) for name, steps in store.steps.items()}
        self.published = list(store.published)

    async def add(self, request: Request, change: bytes | None, body: str) -> bool:
        if request.request_id in self.requests:
            return False
        self.requests[request.request_id], self.changes[request.request_id] = request, change
        self.bodies[request.request_id] = Drafted(request, body)
        return True

    async def request(self, request_id: str) -> Request | None:
        return self.requests.get(request_id)

    async def save(self, request: Request) -> None:
        self.requests[request.request_id] = request

    async def attach(self, request_id: str, change: bytes | None) -> None:
        self.changes[request_id] = change

    async def add_step(self, request_id: str, step: RequestStep) -> None:
        self.steps.setdefault(request_id, []).append(step)

    async def comment(self, comment_id: str) -> RequestStep | None:
        return next((s for steps in self.steps.values() for s in steps if s.comment_id == comment_id), None)

    async def publish(self, events: Sequence[tuple[str, Encoded]]) -> None:
        self.published += events


class MemoryStore:
    """A `services.intake.requests.store.Store` in memory, with one transaction at a time."""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self.changes: dict[str, bytes | None] = {}
        self.bodies: dict[str, Drafted] = {}
        self.steps: dict[str, list[RequestStep]] = {}
        self.published: list[tuple[str, Encoded]] = []
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def work(self) -> AsyncIterator[MemoryWork]:
        async with self._one_at_a_time:
            work = MemoryWork(self)
            yield work
            vars(self).update({name: value for name, value in vars(work).items() if name != "store"})

    async def request(self, request_id: str) -> tuple[Request, bytes | None, list[RequestStep]] | None:
        found = self.requests.get(request_id)
        return None if found is None else (found, self.changes[request_id], self.steps[request_id])

    async def drafted(self, request_id: str) -> Drafted | None:
        return self.bodies.get(request_id)

    async def page(self, wanted: RequestFilter, after: RequestCursor | None, limit: int) -> list[Request]:
        found = sorted(self.requests.values(), key=cursor_of, reverse=True)
        return [r for r in found if _matches(r, wanted) and (after is None or cursor_of(r) < after)][:limit]


def _matches(request: Request, wanted: RequestFilter) -> bool:
    content = request.content
    return (
        (wanted.regions is None or bool({*wanted.regions} & {*content.regions}))
        and wanted.state in (None, request.state)
        and wanted.kind in (None, content.kind)
        and wanted.sponsor in (None, content.sponsor)
        and (wanted.region is None or wanted.region in content.regions)
    )


def published_events(store: MemoryStore) -> list[tuple[str, str]]:
    """Region and name of each published event, in order."""
    found = []
    for topic, encoded in store.published:
        headers = dict(encoded.headers)
        name = headers["ce_type"].decode().removeprefix("piepowder.request.").removesuffix(".v1")
        assert topic == f"piepowder.requests.{headers['ce_region'].decode()}"
        assert msgspec.json.decode(encoded.value)["request_id"] in headers["ce_subject"].decode()
        found.append((topic.removeprefix("piepowder.requests."), name))
    return found


ALL = frozenset({api.READ, api.WRITE, api.DECIDE, api.DEPLOY})
RIGHTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "author": (ALL, frozenset({"*"})),
    "lead-a": (ALL, frozenset({"*"})),
    "lead-b": (ALL, frozenset({"*"})),
    "lead-c": (ALL, frozenset({"*"})),
    "moderation-lead": (ALL, frozenset({"*"})),
    "eu-only": (ALL, frozenset({"eu"})),
    "us-only": (ALL, frozenset({"us"})),
    "without-scope": (frozenset({"items:read"}), frozenset({"*"})),
}


class RequestService:
    """The REST API of business requests on a store in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.router = FakeRouter()
        self.clock = ManualClock(datetime(2026, 5, 1, 9, 30, tzinfo=UTC))
        self.readiness = Readiness("intake")
        self.keys = {name: ids.new_api_key("test") for name in RIGHTS}
        self.woken = 0
        self.app = self._app()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://intake")

    def connect_database(self) -> None:
        requests = Requests(
            self.store,
            checker=self.router,
            owners=lambda: ownership("eu", "us"),
            countries=frozenset({"DE", "FR", "US", "CH"}),
            regions=["eu", "us"],
            clock=self.clock,
            approvals_needed=2,
            wake=self._wake,
        )
        api.available_requests.provide(self.app, requests)

    def disconnect_database(self) -> None:
        api.available_requests.withdraw(self.app)

    def _wake(self) -> None:
        self.woken += 1

    def _app(self) -> FastAPI:
        app = create_app("intake", "", self.readiness)
        clients = [
            ClientEntry(name, ids.hash_api_key(self.keys[name]), scopes, regions)
            for name, (scopes, regions) in RIGHTS.items()
        ]
        app.state.authenticator = Authenticator(clients)
        app.state.body_seconds = 0.2
        add_error_responses(app)
        app.include_router(api.router)
        return app

    async def call(
        self, method: str, path: str = "", payload: object = None, *, by: str = "author", **headers: str
    ) -> httpx.Response:
        """Send a request; `_` in a header's name stands for `-`. Adds Content-Type and the client's API key."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = payload if isinstance(payload, bytes) else None if payload is None else json.dumps(payload).encode()
        if content is not None:
            named = {"Content-Type": "application/json"} | named
        if by:
            named["Authorization"] = f"Bearer {self.keys[by]}"
        return await self.http.request(method, f"/v1/requests{path}", content=content, headers=named)

    async def draft(self, key: str = "one", *, by: str = "author", **change: Any) -> str:
        response = await self.call("POST", "", body(**change), by=by, idempotency_key=f'"{key}"')
        assert response.status_code == 201, response.text
        request_id: str = response.json()["request_id"]
        return request_id

    async def perform(self, request_id: str, command: str, *, by: str = "author", reason: str = "") -> str:
        response = await self.call("POST", f"/{request_id}/{command}", {"reason": reason} if reason else None, by=by)
        assert response.status_code == 200, response.text
        state: str = response.json()["state"]
        return state

    async def submitted(self, **change: Any) -> str:
        request_id = await self.draft(**change)
        await self.perform(request_id, "submit")
        return request_id
