"""Who calls, what they may do, in which regions and for which platforms: asked of a dictionary, on every call, before
anything else.

Clients come from two places. A file that the settings name holds the first administrator's key, so that a system can be
begun and entered when all else fails; it is read at start, and its names go before others. All the rest is told by
intake on the control topic, which every service follows: a key that is revoked there opens nothing here a moment later,
and does not after a restart either, because until the topic has been read to its end only the file's keys open.

Keys look like `pp_<environment>_<random><crc>` and are sent as `Authorization: Bearer <key>`; only their SHA-256 is
known. Each call costs one hash and one look-up, whether the key is known or not. People send an access token instead
(see `shared.auth.oidc`).
"""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shared.auth import clients
from shared.auth.clients import ANY
from shared.auth.limits import Fields, Meter
from shared.contracts import ids
from shared.contracts.envelope import Event
from shared.contracts.events import ClientChanged, ClientKey, KeyUse, RateLimit
from shared.http.http import (
    CALLER,
    Problem,
    ProblemDetails,
    documented_body,
    require_json,
    require_query,
    require_sound,
    route_of,
)
from shared.http.openapi_security import RATE_LIMITED, security
from shared.runtime import metrics
from shared.runtime.clock import Clock, SystemClock, to_text
from shared.runtime.errors import Fatal, PiepowderError, Poison

SKEW_SECONDS: Final = 5.0  # clocks of different machines: a key is taken so much longer than it says
_PEOPLES_LIMIT: Final = RateLimit(requests_per_second=20.0, burst=100)
_PEOPLE_KEPT: Final = 10_000
_TOKEN_DOTS: Final = 2
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_CLIENT_GONE: Final = 499


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whoever holds a key: `scopes` such as `items:write`, `regions` it may act in and `platforms` it may act for (`*`
    for all)."""

    name: str
    key_sha256: str
    scopes: frozenset[str]
    regions: frozenset[str] = frozenset({ANY})
    expires_at: str = ""
    limit: RateLimit | None = None
    platforms: frozenset[str] = frozenset({ANY})

    def may_act_in(self, region: str) -> bool:
        return ANY in self.regions or region in self.regions

    def may_act_for(self, platform: str) -> bool:
        return ANY in self.platforms or platform in self.platforms


NOBODY: Final = Client("", "", frozenset(), frozenset())
"""Whoever shows nothing that is known."""


class Refusals(Protocol):
    """Where it is told who was refused; see `shared.auth.access_log`."""

    def refused(
        self, *, reason: str, client: Client, key: str, method: str, route: str, status: int, count: int
    ) -> None: ...


class NotAccepted(PiepowderError):  # noqa: N818 - what the token is
    """An access token opens nothing; `reason` is a code, the text a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Person(msgspec.Struct, frozen=True):
    """What an access token says of who sends it: a pseudonym, scopes and regions."""

    name: str
    scopes: frozenset[str]
    regions: frozenset[str]


class Tokens(Protocol):
    """Whom an access token is from; raises NotAccepted, or a 503 Problem while that cannot be told."""

    def person(self, token: str) -> Person: ...


class Caller:
    """Who a request comes from, kept in its scope, so that the answer may tell limits and the log refusals."""

    __slots__ = ("_reason", "_refusals", "calls", "client", "ends", "key_id", "last", "meter", "outside", "until")

    def __init__(
        self,
        client: Client,
        key_id: str,
        refusals: Refusals | None,
        *,
        meter: Meter | None = None,
        until: float | None = None,
        outside: bool = False,
        ends: str = "",
        reason: str = "",
    ) -> None:
        self.client = client
        self.key_id = key_id
        self.meter = meter
        self.until = until  # in seconds since the epoch; None for ever
        self.ends = ends  # why it opens nothing after that
        self.outside = outside
        self.calls = 0
        self.last = 0.0
        self._refusals = refusals
        self._reason = reason

    def fields(self) -> Fields:
        """The header fields that tell the caller's limit."""
        return [] if self.meter is None else self.meter.fields()

    def refused(self, method: str, route: str, problem: ProblemDetails) -> None:
        """Count and note that a call was refused."""
        self.note(self._reason or problem.type.rpartition(":")[2], method, route, problem.status, 1)

    def note(self, reason: str, method: str, route: str, status: int, count: int) -> None:
        """Count and note refusals that are told to the caller in another way."""
        metrics.ACCESS_REFUSED.labels(reason).inc(count)
        if self._refusals is not None:
            self._refusals.refused(
                reason=reason,
                client=self.client,
                key=self.key_id,
                method=method,
                route=route,
                status=status,
                count=count,
            )


class _Published:
    """What was last told of a client, and its keys' places in the table."""

    __slots__ = ("hashes", "meter", "revision")

    def __init__(self, revision: int, hashes: list[bytes], meter: Meter | None) -> None:
        self.revision = revision
        self.hashes = hashes
        self.meter = meter


class Authenticator:
    """Knows the clients and tells who a request comes from.

    `regions` are those that the service serves: whoever may act in none of them is refused. With `follows`, other
    clients than those of the file are told by `apply`, and they count once `caught_up` was called.
    """

    def __init__(
        self,
        file_clients: Iterable[Client],
        *,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
        regions: Iterable[str] | None = None,
        refusals: Refusals | None = None,
        tokens: Tokens | None = None,
        follows: bool = False,
    ) -> None:
        self._clock = clock
        self._regions = None if regions is None else frozenset(regions)
        self._refusals = refusals
        self._tokens = tokens
        self._complete = not follows
        self._by_hash: dict[bytes, Caller] = {}
        self._published: dict[str, _Published] = {}
        self._people: OrderedDict[str, Meter] = OrderedDict()
        self._changed = asyncio.Event()
        meters: dict[str, Meter | None] = {}
        for client in file_clients:
            meter = meters.setdefault(client.name, self._meter(client.limit))
            until = _until(client.expires_at)
            self._by_hash[bytes.fromhex(client.key_sha256)] = self._caller(client, meter, until)
        self.file_names = frozenset(meters)
        self._file_hashes = frozenset(self._by_hash)

    @classmethod
    def from_file(cls, path: Path | None) -> "Authenticator":
        """Knows the clients in a JSON file alone; none when there is no file, so every call is refused."""
        return cls(read_file(path))

    def client(self, request: Request, scope: str) -> Client:
        """Who calls; raises a Problem: 401 when it is not known who that is, 403 when `scope` or every region of this
        service is lacking, 429 above its limit, 503 while clients are not known yet. Asked again, it costs no more."""
        caller: Caller | None = request.scope.get(CALLER)
        if caller is None:
            caller = request.scope[CALLER] = self._who(request)
            caller.calls += 1
            caller.last = now = self._clock.monotonic()
            if caller.meter is not None and (wait := caller.meter.take(now)):
                raise _limited(caller.client.name, caller.meter.limit, wait)
        client = caller.client
        if scope not in client.scopes:
            raise Problem(
                403,
                "missing-scope",
                "The key may not do this",
                f"Client {client.name!r} lacks the scope {scope!r}; it has {', '.join(sorted(client.scopes))}.",
            )
        if caller.outside:
            raise _not_allowed(client, ", ".join(sorted(self._regions or ())))
        return client

    def apply(self, event: Event[Any]) -> None:
        """Take in what is told of a client; raises Poison, and leaves what was told before, when it cannot be used."""
        told = event.data
        if not isinstance(told, ClientChanged):
            return
        if event.attributes.subject != clients.subject(told.name):
            raise Poison(f"client {told.name!r:.100} is told of under the key {event.attributes.subject!r:.100}")
        if faults := clients.faults(told):
            raise Poison(f"client {told.name!r:.100}: {faults[0]}")
        before = self._published.get(told.name)
        if before is not None and told.revision <= before.revision:
            return
        hashes = [bytes.fromhex(key.sha256) for key in told.keys]
        own = set() if before is None else set(before.hashes)
        if any(sha256 in self._by_hash and sha256 not in own for sha256 in hashes):
            raise Poison(f"client {told.name!r}: one of its keys is another client's")
        meter = before.meter if before is not None else None
        if told.limit != (None if meter is None else meter.limit):
            meter = self._meter(told.limit)
        if told.name not in self.file_names:
            callers = [self._of_key(told, key, meter) for key in told.keys]
            for sha256, caller in zip(hashes, callers, strict=True):
                if (known := self._by_hash.get(sha256)) is not None:
                    caller.calls, caller.last = known.calls, known.last
            for sha256 in own:
                del self._by_hash[sha256]
            self._by_hash.update(zip(hashes, callers, strict=True))
        else:
            hashes = []
        self._published[told.name] = _Published(told.revision, hashes, meter)
        self._changed.set()
        self._changed = asyncio.Event()

    def caught_up(self) -> None:
        """All that was told before now has been applied: from now on, every client counts."""
        self._complete = True

    async def in_force(self, name: str, revision: int) -> None:
        """Return when this process knows a client's revision, or a later one."""
        while (known := self._published.get(name)) is None or known.revision < revision:
            await self._changed.wait()

    def uses(self) -> list[tuple[Client, KeyUse]]:
        """The keys that opened something since the last time this was asked."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        used = []
        for caller in self._by_hash.values():
            if caller.calls:
                at = to_text(now - timedelta(seconds=monotonic - caller.last))
                use = KeyUse(client=caller.client.name, key=caller.key_id, calls=caller.calls, last_used_at=at)
                used.append((caller.client, use))
                caller.calls = 0
        return used

    def _who(self, request: Request) -> Caller:
        secret = _bearer(request.scope["headers"])
        if not secret:
            raise self._unknown(request, "no-key", "No API key: send it as `Authorization: Bearer pp_...`.")
        sha256 = hashlib.sha256(secret)
        caller = self._by_hash.get(sha256.digest())
        if caller is None:
            return self._other(request, secret, clients.key_id(sha256.hexdigest()))
        if not self._complete and sha256.digest() not in self._file_hashes:
            raise _not_known_yet()
        if caller.until is not None and self._clock.now().timestamp() > caller.until + SKEW_SECONDS:
            raise self._ended(request, caller)
        return caller

    def _other(self, request: Request, secret: bytes, key_id: str) -> Caller:
        if self._tokens is not None and secret.count(b".") == _TOKEN_DOTS:
            return self._person(request, self._tokens, secret)
        if not ids.is_well_formed_api_key(secret.decode("latin-1")):
            said = "This is not an API key, or it is mistyped: its check digits do not fit."
            raise self._unknown(request, "mistyped-key", said)
        if not self._complete:
            raise _not_known_yet()
        said = "This API key is not known here: it belongs to another environment, or to no client any more."
        raise self._unknown(request, "unknown-key", said, key_id)

    def _person(self, request: Request, tokens: Tokens, secret: bytes) -> Caller:
        try:
            person = tokens.person(secret.decode("latin-1"))
        except NotAccepted as error:
            raise self._unknown(request, error.reason, str(error)) from error
        meter = self._people.pop(person.name, None) or Meter(_PEOPLES_LIMIT, self._clock)
        self._people[person.name] = meter
        if len(self._people) > _PEOPLE_KEPT:
            self._people.popitem(last=False)
        return self._caller(Client(person.name, "", person.scopes, person.regions), meter, None)

    def _ended(self, request: Request, caller: Caller) -> Problem:
        client = caller.client
        request.scope[CALLER] = Caller(client, caller.key_id, self._refusals, reason=caller.ends)
        return _unauthorized(_ENDED[caller.ends].format(name=client.name))

    def _unknown(self, request: Request, reason: str, detail: str, key_id: str = "") -> Problem:
        request.scope[CALLER] = Caller(NOBODY, key_id, self._refusals, reason=reason)
        return _unauthorized(detail) if reason != "no-key" else _unauthorized(detail, "Bearer")

    def _caller(self, client: Client, meter: Meter | None, until: float | None, reason: str = "expired-key") -> Caller:
        regions = self._regions
        outside = regions is not None and ANY not in client.regions and not client.regions & regions
        key = clients.key_id(client.key_sha256)
        return Caller(client, key, self._refusals, meter=meter, until=until, outside=outside, ends=reason)

    def _of_key(self, told: ClientChanged, key: ClientKey, meter: Meter | None) -> Caller:
        client = Client(
            told.name,
            key.sha256,
            clients.opened(told.scopes, told.platforms),
            frozenset(told.regions),
            key.expires_at,
            platforms=frozenset(told.platforms),
        )
        if told.state != clients.ACTIVE:
            return self._caller(client, meter, -math.inf, "disabled-client")
        if key.revoked_at:
            return self._caller(client, meter, -math.inf, "revoked-key")
        return self._caller(client, meter, _until(key.expires_at))

    def _meter(self, limit: RateLimit | None) -> Meter | None:
        return None if limit is None else Meter(limit, self._clock)


def read_file(path: Path | None) -> list[Client]:
    """The clients in a JSON file, none when there is no file; raises Fatal with a sentence when it cannot be read."""
    if path is None:
        return []
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[Client])
    except (OSError, msgspec.DecodeError) as error:
        raise Fatal(f"PIEPOWDER_CLIENTS_FILE names {path}, which cannot be read: {error}") from error
    for client in found:
        if not clients.is_sha256(client.key_sha256) or (client.expires_at and not clients.moment(client.expires_at)):
            raise Fatal(f"{path}: client {client.name!r} has no SHA-256 of a key, or an `expires_at` that is no time")
        for fault in (
            *map(clients.platform_fault, client.platforms),
            clients.too_wide(client.scopes, client.platforms),
        ):
            if fault is not None:
                raise Fatal(f"{path}: client {client.name!r}: {fault}")
        for field, sentence in [] if client.limit is None else clients.limit_faults(client.limit):
            raise Fatal(f"{path}: client {client.name!r}: limit.{field}: {sentence}")
    return found


def charge(request: Request, items: int) -> None:
    """Count the items that a call brought against its caller's limit of items."""
    caller = request.scope.get(CALLER)
    if caller is not None and caller.meter is not None:
        caller.meter.charge(items)


def note_refused(request: Request, reason: str, status: int, count: int) -> None:
    """Note refusals inside an answer that is none itself: the lines of a batch."""
    caller = request.scope.get(CALLER)
    if caller is not None and count:
        caller.note(reason, request.method, route_of(request.scope), status, count)


def require_region(client: Client, region: str, *, pointer: str | None = None) -> None:
    """Raises a 403 Problem when the client may not act in the region."""
    if not client.may_act_in(region):
        raise _not_allowed(client, repr(region), pointer)


def keyed(authenticator: Authenticator, scope: str, region: str | None = None) -> type[APIRoute]:
    """Routes that ask for a key with `scope`, in `region` if one is given, first, before they look at anything that was
    sent, and then read that strictly; they say so in the OpenAPI document."""

    class KeyedRoute(APIRoute):
        def __init__(self, *given: Any, **named: Any) -> None:
            named["openapi_extra"] = {"security": security(scope)} | (named.get("openapi_extra") or {})
            if _WITH_BODY & set(named.get("methods") or ()):
                named["responses"] = documented_body() | (named.get("responses") or {})
            super().__init__(*given, **named)

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            parameters = [field.alias for field in self.dependant.query_params]

            async def ask_first(request: Request) -> Response:
                client = authenticator.client(request, scope)
                if region is not None:
                    require_region(client, region)
                require_query(request, parameters)
                if request.method in _WITH_BODY:
                    require_json(request)
                    try:
                        require_sound(await request.body())  # which keeps it
                    except ClientDisconnect:
                        return Response(status_code=_CLIENT_GONE)
                return await handle(request)

            return ask_first

    return KeyedRoute


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, secret = value.partition(b" ")
            return secret.strip() if scheme.lower() == b"bearer" else b""
    return b""


def _until(expires_at: str) -> float | None:
    moment = clients.moment(expires_at) if expires_at else None
    return None if moment is None else moment.timestamp()


_ENDED: Final = {
    "expired-key": "This API key of client {name!r} has expired. Use its successor, or have one made.",
    "revoked-key": "This API key of client {name!r} was revoked. Use its successor, or have one made.",
    "disabled-client": "Client {name!r} is disabled, and its keys open nothing.",
}


def _unauthorized(detail: str, challenge: str = 'Bearer error="invalid_token"') -> Problem:
    return Problem(
        401, "unauthorized", "The call is not authenticated", detail, headers={"WWW-Authenticate": challenge}
    )


def _not_known_yet() -> Problem:
    said = "The control topic, which tells who the clients are, is not read to its end yet. Send the same again."
    return Problem(503, "not-ready", "The service is not ready", said, retry_after=2)


def _not_allowed(client: Client, regions: str, pointer: str | None = None) -> Problem:
    return Problem(
        403,
        "region-not-allowed",
        "The key may not act in this region",
        f"Client {client.name!r} may act in {', '.join(sorted(client.regions)) or 'no region'}, not in {regions}.",
        pointer=pointer,
    )


def _limited(name: str, limit: RateLimit, wait: float) -> Problem:
    items = f", and {limit.items_per_second:g} items" if limit.items_per_second else ""
    said = f"Client {name!r} may make {limit.requests_per_second:g} calls a second, {limit.burst} at once{items}."
    return Problem(429, RATE_LIMITED, "Too many calls", said, retry_after=max(1, math.ceil(wait)))
