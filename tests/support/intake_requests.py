"""What the tests of business requests are made of: requests, an operating model, a store in memory, a router that says
what the test wants, and the REST over them."""

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
    """A draft that may be submitted at once, with members changed; None takes one away."""
    sound = {
        "title": "Look at lamps",
        "kind": "policy_change",
        "sponsor": "moderation-lead",
        "regions": ["eu"],
        "markets": ["DE"],
        "rationale": "They are too cheap.",
        "change": {"policy_set": POLICY_SET},
    }
    return {name: value for name, value in (sound | change).items() if value is not None}


def region(name: str, *markets: str) -> Region:
    """A region with one queue."""
    queue = Queue(id="general", service_level_minutes=60)
    return Region(id=name, markets=list(markets), queues=[queue], default_queue="general")


def ownership(*served: str) -> MarketOwnership:
    """Regions eu (DE, FR), us (US) and uk (GB)."""
    regions = [region("eu", "DE", "FR"), region("us", "US"), region("uk", "GB")]
    return MarketOwnership(OperatingModelPublished(id="om-1", number=1, published_by="x", regions=regions), served)


class Router:
    """Checks changes: raises `error` where there is one, and waits while `held` is not set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.asked: list[ProposedChange] = []

    async def check(self, change: ProposedChange) -> ChangeCheck:
        self.asked.append(change)
        await self.held.wait()
        if self.error is not None:
            raise self.error
        difference = ProposedDifference(what="policies/a", how="added")
        return ChangeCheck(
            verdict=lifecycle.FITS, operating_model="om-1", policy_set="ps-1", differing=1, differences=[difference]
        )


class MemoryWork:
    """A transaction on a `MemoryStore`: what it writes is there when it ends well."""

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
        return [r for r in found if _fits(r, wanted) and (after is None or cursor_of(r) < after)][:limit]


def _fits(request: Request, wanted: RequestFilter) -> bool:
    content = request.content
    return (
        (wanted.regions is None or bool({*wanted.regions} & {*content.regions}))
        and wanted.state in (None, request.state)
        and wanted.kind in (None, content.kind)
        and wanted.sponsor in (None, content.sponsor)
        and (wanted.region is None or wanted.region in content.regions)
    )


def told(store: MemoryStore) -> list[tuple[str, str]]:
    """What was published: region and event, in its order."""
    found = []
    for topic, encoded in store.published:
        headers = dict(encoded.headers)
        name = headers["ce_type"].decode().removeprefix("piepowder.request.").removesuffix(".v1")
        assert topic == f"piepowder.requests.{headers['ce_region'].decode()}"
        assert msgspec.json.decode(encoded.value)["request_id"] in headers["ce_subject"].decode()
        found.append((topic.removeprefix("piepowder.requests."), name))
    return found


ALL = frozenset({api.READ, api.WRITE, api.DECIDE, api.DEPLOY})
WHO: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "author": (ALL, frozenset({"*"})),
    "lead-a": (ALL, frozenset({"*"})),
    "lead-b": (ALL, frozenset({"*"})),
    "lead-c": (ALL, frozenset({"*"})),
    "moderation-lead": (ALL, frozenset({"*"})),
    "of-eu": (ALL, frozenset({"eu"})),
    "of-us": (ALL, frozenset({"us"})),
    "nothing": (frozenset({"items:read"}), frozenset({"*"})),
}


class House:
    """Business requests behind their REST."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.router = Router()
        self.clock = ManualClock(datetime(2026, 5, 1, 9, 30, tzinfo=UTC))
        self.readiness = Readiness("intake")
        self.keys = {name: ids.new_api_key("test") for name in WHO}
        self.woken = 0
        self.app = self._app()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://intake")

    def open(self) -> None:
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

    def close(self) -> None:
        api.available_requests.withdraw(self.app)

    def _wake(self) -> None:
        self.woken += 1

    def _app(self) -> FastAPI:
        app = create_app("intake", "", self.readiness)
        clients = [
            ClientEntry(name, ids.hash_api_key(self.keys[name]), scopes, regions)
            for name, (scopes, regions) in WHO.items()
        ]
        app.state.authenticator = Authenticator(clients)
        app.state.body_seconds = 0.2
        add_error_responses(app)
        app.include_router(api.router)
        return app

    async def call(
        self, method: str, path: str = "", given: object = None, *, by: str = "author", **headers: str
    ) -> httpx.Response:
        """`headers` are named with `_` for `-`; those of a JSON body and the key are added."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = given if isinstance(given, bytes) else None if given is None else json.dumps(given).encode()
        if content is not None:
            named = {"Content-Type": "application/json"} | named
        if by:
            named["Authorization"] = f"Bearer {self.keys[by]}"
        return await self.http.request(method, f"/v1/requests{path}", content=content, headers=named)

    async def draft(self, key: str = "one", *, by: str = "author", **change: Any) -> str:
        answer = await self.call("POST", "", body(**change), by=by, idempotency_key=f'"{key}"')
        assert answer.status_code == 201, answer.text
        request_id: str = answer.json()["request_id"]
        return request_id

    async def does(self, request_id: str, command: str, *, by: str = "author", reason: str = "") -> str:
        answer = await self.call("POST", f"/{request_id}/{command}", {"reason": reason} if reason else None, by=by)
        assert answer.status_code == 200, answer.text
        state: str = answer.json()["state"]
        return state

    async def submitted(self, **change: Any) -> str:
        request_id = await self.draft(**change)
        await self.does(request_id, "submit")
        return request_id
