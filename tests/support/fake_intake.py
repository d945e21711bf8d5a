"""The REST API of intake in memory, for the tests of the command: batches of items, withdrawals, and clients."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from shared.contracts import ids

KEY = ids.new_api_key("local")
CLIENT: dict[str, Any] = {
    "name": "shop",
    "description": "The \x1b[31mshop",
    "state": "active",
    "scopes": ["items:write"],
    "regions": ["eu"],
    "platforms": ["shop"],
    "limit": {"requests_per_second": 5.0, "burst": 10, "items_per_second": 0.0},
    "revision": 1,
    "created_at": "2026-05-01T09:30:00.000Z",
    "changed_at": "2026-05-01T09:30:00.000Z",
    "keys": [
        {
            "key_id": "9f86d081884c",
            "state": "live",
            "created_at": "2026-05-01T09:30:00.000Z",
            "expires_at": None,
            "revoked_at": None,
            "last_used_at": "2026-05-02T09:30:00.000Z",
        }
    ],
}


class FakeIntake:
    """Responds as intake does, and records the requests.

    Batches: `override` may respond to the n-th call instead; `status` gives the status of an item in the n-th call.
    Withdrawals: each read of an item returns the next of `states`, by region; `deletes` is the status of a withdrawal.
    Clients: `in_force` is the value in the response to a new key; `exists` if the client has been created before, with
    its key; `refusal` is the response to a new client.
    """

    def __init__(self, *states: dict[str, str], deletes: int = 202) -> None:
        self.bodies: list[list[bytes]] = []
        self.accepted: list[str] = []
        self.override: Callable[[int], httpx.Response | None] = lambda _: None
        self.status: Callable[[str, int], int] = lambda _id, _call: 202
        self.reasons: list[str | None] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.idempotency_keys: list[str | None] = []
        self.in_force = True
        self.exists = False
        self.refusal: httpx.Response | None = None
        self._states = list(states)
        self._deletes = deletes

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/items/batch":
            return self._batch(request)
        return self._item(request) if request.url.path.startswith("/v1/items/") else self._clients(request)

    def _batch(self, request: httpx.Request) -> httpx.Response:
        lines = request.content.splitlines()
        self.bodies.append(lines)
        call = len(self.bodies)
        overriding = self.override(call)
        if overriding is not None:
            return overriding
        return httpx.Response(200, content=b"".join(self._verdict(n, line, call) for n, line in enumerate(lines, 1)))

    def _verdict(self, number: int, line: bytes, call: int) -> bytes:
        name = line.decode().strip('"')
        status = self.status(name, call)
        verdict: dict[str, object] = {"line": number, "status": status}
        if status == 202:
            self.accepted.append(name)
            verdict |= {"item_id": f"item-{name}", "subject": f"s:product:{name}", "regions": ["eu", "us"]}
        else:
            verdict |= {"detail": "bad", "errors": [{"pointer": "/gtin", "detail": "wrong check digit"}]}
        return msgspec.json.encode(verdict) + b"\n"

    def _item(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.reasons.append(request.url.params.get("reason"))
            if self._deletes != 202:
                return httpx.Response(self._deletes, json={"title": "No", "detail": "No item 'x' is known."})
            regions = {region: {"event_id": "e"} for region in ("eu", "us")}
            return httpx.Response(202, json={"item_id": "i", "subject": "s:product:1", "regions": regions})
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return httpx.Response(200, json={"regions": {region: {"status": status} for region, status in state.items()}})

    def _clients(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else None
        self.requests.append((request.method, path, body))
        if path.endswith("/keys") and request.method == "POST":
            self.idempotency_keys.append(request.headers.get("idempotency-key"))
            made = {"client": "shop", "key": KEY, "key_id": "9f86d081884c", "expires_at": None}
            return httpx.Response(201, json=made | {"in_force": self.in_force})
        if path == "/v1/clients" and request.method == "POST":
            keys = CLIENT["keys"] if self.exists else []
            created = {"client": CLIENT | {"keys": keys}, "in_force": True}
            return self.refusal or httpx.Response(200 if self.exists else 201, json=created)
        if path == "/v1/clients" and request.method == "GET":
            second = request.url.params.get("cursor") == "shop"
            page = {"clients": [CLIENT | {"name": "web" if second else "shop"}], "next": None if second else "shop"}
            return httpx.Response(200, json=page)
        if request.method == "GET":
            return httpx.Response(200, json=CLIENT)
        return httpx.Response(200, json={"client": CLIENT | (body or {}), "in_force": True})
