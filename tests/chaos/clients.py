"""The life cycle of clients: created, given a key and its successor, limited, disabled, enabled, keys revoked.

Each client has one region and one platform, or all. It posts items that no other client posts, with valid and invalid
keys, to its own and to other regions and platforms. The journal names a key by its id; the text of the key is
only in one response and in memory.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec

from tests.chaos.gate import Gate
from tests.chaos.load import MARKETS, Client, Endpoint
from tests.chaos.web import Answer

_PATIENCE: Final = 40.0
_KEYS_TRIED: Final = 6
_LIMIT: Final = {"requests_per_second": 2.0, "burst": 3}
_EVERYWHERE: Final = {"regions": ["*"], "platforms": ["*"]}
_SCOPES: Final = ("items:write", "items:read")
_KEY_SHOWN: Final = ":key-shown-already"
_made_key = re.compile(r"created key ([0-9a-f]+)").search
_encode = msgspec.json.Encoder().encode


class Key(NamedTuple):
    """A key; `secret` is the text that authenticates a call."""

    key_id: str
    secret: str


class Registry:
    """Operations on clients; each repeats its call until the result is known."""

    def __init__(self, client: Client, intake: int, gate: Gate, seed: int) -> None:
        self._client = client
        self._intake = intake
        self._gate = gate
        self._rng = random.Random(f"registry-{seed}")
        self._secrets: dict[str, str] = {}
        self.tally: Counter[str] = Counter()

    async def create(
        self, name: str, scopes: Sequence[str], rights: Mapping[str, Sequence[str]], *, limited: bool = False
    ) -> bool:
        """Create a client with `rights` (regions and platforms); return True if it then exists."""
        body = {"name": name, "scopes": scopes, **rights, "limit": _LIMIT if limited else None}
        facts = {"name": name, "scopes": scopes, **rights, "limited": limited}
        status, _ = await self._until_known("client.create", facts, "/v1/clients", body)
        return status in (200, 201)

    async def add_key(self, name: str, call: str) -> Key | None:
        """Create a key under an Idempotency-Key; if the response is lost, revoke the key and create another."""
        for n in range(_KEYS_TRIED):
            facts = {"name": name, "key": f"{name}-{call}-{n}"}
            path, headers = f"/v1/clients/{name}/keys", {"Idempotency-Key": f'"{facts["key"]}"'}
            status, result = await self._until_known("client.key", facts, path, {}, headers=headers, read=self._shown)
            if status == 201:
                return Key(result["key_id"], self._secrets[result["key_id"]])
            if status != 409 or not result["type"].endswith(_KEY_SHOWN):
                return None
            lost = _made_key(result["detail"])
            if lost is None:
                raise ValueError(f"intake does not name the key that was lost: {result['detail']!r}")
            await self.revoke(name, lost[1])
        return None

    async def revoke(self, name: str, key_id: str) -> bool:
        """Revoke a key; return True if intake enforces the revocation."""
        path = f"/v1/clients/{name}/keys/{key_id}"
        return await self._in_force("client.revoke", {"name": name, "key_id": key_id}, path, None, "DELETE")

    async def change(self, name: str, state: str) -> bool:
        """Set a client to `disabled` or `active`; return True if intake enforces the change."""
        facts = {"name": name, "state": state}
        return await self._in_force("client.change", facts, f"/v1/clients/{name}", {"state": state}, "PATCH")

    async def _in_force(self, kind: str, facts: dict[str, Any], path: str, body: Any, method: str) -> bool:
        for _ in range(_KEYS_TRIED):
            status, result = await self._until_known(kind, facts, path, body, method=method)
            if status != 200 or result["in_force"]:
                return status == 200
        return False

    async def _until_known(
        self, kind: str, facts: dict[str, Any], path: str, body: Any, **more: Any
    ) -> tuple[int | None, Any]:
        loop = asyncio.get_running_loop()
        content, more = b"" if body is None else _encode(body), {"read": _changed, **more}
        begun, hasty = loop.time(), self._rng.random() < 0.1
        while True:
            timeout = 0.01 if hasty else 15.0
            async with self._gate.passing():
                status, result = await self._client.call(
                    kind, facts, (self._intake, path), content, timeout=timeout, **more
                )
            self.tally[f"{kind.partition('.')[2]} {status or 'no response'}"] += 1
            if status not in (None, 429, 503) or loop.time() - begun > _PATIENCE:
                return status, result
            hasty = False
            await asyncio.sleep(self._rng.uniform(0.3, 1.5))

    def _shown(self, answer: Answer) -> dict[str, Any]:
        result = answer.json()
        self._secrets[result["key_id"]] = result["key"]
        return {"key_id": result["key_id"], "in_force": result["in_force"]}


class PermanentClients:
    """Creates the clients that exist during the whole run, and has their keys."""

    def __init__(self, registry: Registry, administrator: str) -> None:
        self._registry = registry
        self._keys = {"local": administrator}

    async def create(self, name: str, scopes: Sequence[str], stop: asyncio.Event) -> bool:
        """Create a client with a key for all regions; return True if that succeeded before `stop`."""
        for attempt in count():  # each with calls of its own: the keys of the attempt before cannot be shown again
            if stop.is_set():
                break
            made = await self._registry.create(name, scopes, _EVERYWHERE)
            if made and (key := await self._registry.add_key(name, f"own-{attempt}")):
                self._keys[name] = key.secret
                return True
        return False

    def key(self, name: str) -> str:
        """The key of client `name`."""
        return self._keys[name]


class Posters:
    """Clients that are created during the run, post items, and lose their keys."""

    def __init__(self, client: Client, intake: int, registry: Registry, seed: int) -> None:
        self._client = client
        self._items: Endpoint = intake, "/v1/items"
        self._lines: Endpoint = intake, "/v1/items/batch"
        self._registry = registry
        self._seed = seed
        self.tally: Counter[str] = Counter()

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Start clients at `rate` per second until `stop`; after `stop` no client posts items."""
        rng, n = random.Random(f"clients-{self._seed}"), 0
        async with asyncio.TaskGroup() as living:
            while not stop.is_set():
                n += 1
                living.create_task(self._live(f"c-{n}", random.Random(f"clients-{self._seed}-{n}"), stop))
                await _rest(stop, rng.expovariate(rate))

    async def _live(self, name: str, rng: random.Random, stop: asyncio.Event) -> None:
        rights = {
            "regions": rng.choice((["eu"], ["us"], ["*"])),
            "platforms": rng.choice((["shop"], ["shop", "fair"], ["fair"], ["*"])),
        }
        poster = _Poster(self, name, rights, rng, stop)
        if not await self._registry.create(name, _SCOPES, rights, limited=rng.random() < 0.3):
            return
        if (first := await self._registry.add_key(name, "first")) is None:
            return
        await poster.posts(first, rng.randint(2, 6))
        if rng.random() < 0.3:
            await self._registry.create(
                name, _SCOPES, {**rights, "regions": ["us"]}
            )  # another client with the same name
        second = await self._registry.add_key(name, "second")
        if second is None:
            return
        if rng.random() < 0.3:
            await self._registry.add_key(name, "third")  # one key more than allowed
        await poster.posts(second, 2)
        await asyncio.gather(self._registry.revoke(name, first.key_id), poster.posts(first, 3))
        await poster.posts(first, 3)
        await poster.posts(second, 2)
        if rng.random() < 0.5:
            await asyncio.gather(self._registry.change(name, "disabled"), poster.posts(second, 2))
            await poster.posts(second, 2)
            if rng.random() < 0.7 and not stop.is_set():
                await self._registry.change(name, "active")
                await poster.posts(second, 2)
                await poster.posts(first, 1)

    async def post(self, name: str, key: Key, lines: Sequence[str], bad: Sequence[int]) -> None:
        """Post items once, as single posts or as a batch; `bad` lines name a region or platform of another client."""
        headers = {"Authorization": f"Bearer {key.secret}"}
        who = {"by": name, "key_id": key.key_id, "bad": list(bad)}
        if len(lines) == 1:
            facts, content = {"body": lines[0], **who}, lines[0].encode()
            status, _ = await self._client.call("post", facts, self._items, content, headers=headers, timeout=8)
        else:
            facts, content = {"lines": list(lines), **who}, "\n".join(lines).encode()
            status, _ = await self._client.call(
                "batch",
                facts,
                self._lines,
                content,
                headers=headers,
                media_type="application/x-ndjson",
                read=lambda answer: [msgspec.json.decode(line) for line in answer.content.splitlines()],
                timeout=8,
            )
        self.tally[str(status or "no answer")] += 1


class _Poster:
    """Posts items as one client."""

    def __init__(
        self,
        posters: Posters,
        name: str,
        rights: Mapping[str, Sequence[str]],
        rng: random.Random,
        stop: asyncio.Event,
    ) -> None:
        self._posters = posters
        self._name = name
        self._rights = rights
        self._rng = rng
        self._stop = stop
        self._count = 0

    async def posts(self, key: Key, times: int) -> None:
        """Post `times` times with a key; some posts are for regions or platforms of other clients."""
        for _ in range(times):
            if self._stop.is_set():
                return
            items = [self._item() for _ in range(self._rng.choice((1, 1, 1, 4)))]
            lines = [_encode(item).decode() for item in items]
            bad = [n for n, item in enumerate(items, 1) if not self._may(item)]
            await self._posters.post(self._name, key, lines, bad if len(lines) > 1 else [0] * len(bad))
            await _rest(self._stop, self._rng.choice((0.0, self._rng.uniform(0.0, 0.8))))

    def _item(self) -> dict[str, Any]:
        self._count += 1
        return {
            "platform": self._rng.choice(("shop", "shop", "fair")),
            "kind": "product",
            "id": f"{self._name}-{self._count}",
            "version": 1,
            "markets": self._rng.choice((["DE"], ["DE", "FR"], ["US"], ["DE", "US"])),
            "title": "Garden chair of oak, solid",
            "brand": "Oak & Sons",
        }

    def _may(self, item: Mapping[str, Any]) -> bool:
        wanted = {"regions": [MARKETS[market] for market in item["markets"]], "platforms": [item["platform"]]}
        return all("*" in own or set(wanted[of]).issubset(own) for of, own in self._rights.items())


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def _changed(answer: Answer) -> dict[str, Any]:
    result = answer.json()
    return {
        "state": result["client"]["state"],
        "revision": result["client"]["revision"],
        "in_force": result["in_force"],
    }
