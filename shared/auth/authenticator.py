"""Authentication of a request's caller by one dictionary lookup, before any other work.

Clients have two sources. The clients file (`shared.auth.clients_file`) is read at start and has precedence: it gives an
administrator access to a new or damaged system. All other clients are published on the control topic, which every
service follows: a revoked key is soon refused, and stays refused after a restart, because only the file's keys are
accepted until the topic has been read to its end.

A key has the form `pp_<environment>_<random><crc>` and is sent as `Authorization: Bearer <key>`; only its SHA-256 is
stored. Each call costs one hash and one lookup, for a known and an unknown key alike. A person sends an access token
instead (`shared.auth.oidc`).
"""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple, Protocol

from starlette.requests import Request

from shared.auth import clients
from shared.auth.clients_file import ClientEntry
from shared.auth.limits import Fields, Meter
from shared.auth.principal import MISSING_SCOPE, REGION_NOT_ALLOWED, UNKNOWN, Principal
from shared.auth.refusals import RATE_LIMITED, UNAUTHORIZED
from shared.contracts import ids
from shared.contracts.envelope import Event
from shared.contracts.events import ClientChanged, ClientKey, KeyUse, RateLimit
from shared.http.measurement import CALLER, route_of
from shared.http.problems import NOT_READY, Problem, ProblemDetails
from shared.runtime import metrics
from shared.runtime.clock import Clock, SystemClock, from_text_or_none, to_text
from shared.runtime.errors import PiepowderError, Poison

SKEW_SECONDS: Final = 5.0  # tolerated difference between clocks: a key is accepted this long after its expiry
_LIMIT_OF_A_PERSON: Final = RateLimit(requests_per_second=20.0, burst=100)
_MAX_PEOPLE: Final = 10_000
_TOKEN_DOTS: Final = 2


class RefusalLog(Protocol):
    """Receives refused calls; see `shared.auth.access_log`."""

    def refused(
        self, *, reason: str, principal: Principal, key: str, method: str, route: str, status: int, count: int
    ) -> None: ...


class TokenRejected(PiepowderError):  # noqa: N818 - a rejection, not a failure
    """An access token is not accepted; `reason` is a code, the message a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class TokenVerifier(Protocol):
    """Verifies access tokens: raises TokenRejected, or a 503 Problem while the issuer's keys are unknown."""

    def principal(self, token: str) -> Principal: ...


@dataclass(slots=True, eq=False)
class Caller:
    """The caller of a request, kept in the request's scope for rate-limit headers and the access log.

    Requests with the same API key share one object.
    """

    principal: Principal
    key_id: str
    refusals: RefusalLog | None
    meter: Meter | None = None
    until: float | None = None  # seconds since the epoch; None if it does not expire
    outside: bool = False  # may act in none of the service's regions
    end_reason: str = ""  # the reason of a refusal after `until`
    reason: str = ""  # the reason of the refusal, if it differs from the problem's type
    calls: int = 0
    last: float = 0.0

    def rate_limit_fields(self) -> Fields:
        """The rate-limit headers."""
        return [] if self.meter is None else self.meter.fields()

    def refused(self, method: str, route: str, problem: ProblemDetails) -> None:
        """Count and record the refusal of a call."""
        self.record(self.reason or problem.type.rpartition(":")[2], method, route, problem.status, 1)

    def record(self, reason: str, method: str, route: str, status: int, count: int) -> None:
        """Count and record `count` refusals with the same reason."""
        metrics.ACCESS_REFUSED.labels(reason).inc(count)
        if self.refusals is not None:
            self.refusals.refused(
                reason=reason,
                principal=self.principal,
                key=self.key_id,
                method=method,
                route=route,
                status=status,
                count=count,
            )


class _Published(NamedTuple):
    """The last published state of a client, and the hashes of its keys."""

    revision: int
    hashes: list[bytes]
    meter: Meter | None


class Authenticator:
    """Identifies the caller of a request.

    `regions` are the regions of the service: it refuses a caller that may act in none of them. With `follows`, only the
    file's clients are accepted until `caught_up`; `apply` receives the published clients.
    """

    def __init__(
        self,
        file_clients: Iterable[ClientEntry],
        *,
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
        regions: Iterable[str] | None = None,
        refusals: RefusalLog | None = None,
        tokens: TokenVerifier | None = None,
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
            caller = self._caller(client.principal, client.key_sha256, meter, _until(client.expires_at))
            self._by_hash[bytes.fromhex(client.key_sha256)] = caller
        self.file_names = frozenset(meters)
        self._file_hashes = frozenset(self._by_hash)

    def principal(self, request: Request, scope: str) -> Principal:
        """The caller of a request. Several calls of this method for one request count as one.

        Raises a Problem: 401 without a valid credential, 429 above the rate limit, 503 until the clients are known.
        Raises InputRejected (403) without `scope` or any of the service's regions.
        """
        caller: Caller | None = request.scope.get(CALLER)
        if caller is None:
            caller = request.scope[CALLER] = self._identify(request)
            caller.calls += 1
            caller.last = now = self._clock.monotonic()
            if caller.meter is not None and (wait := caller.meter.take(now)):
                raise _rate_limited(caller.principal.name, caller.meter.limit, wait)
        principal = caller.principal
        if scope not in principal.scopes:
            scopes = ", ".join(sorted(principal.scopes)) or "none"
            detail = f"Client {principal.name!r} does not have the scope {scope!r}; it has {scopes}."
            raise MISSING_SCOPE.with_message(detail)
        if caller.outside:
            served = ", ".join(sorted(self._regions or ()))
            raise REGION_NOT_ALLOWED.with_message(f"{principal.described_regions()}, not in {served}")
        return principal

    def apply(self, event: Event[Any]) -> None:
        """Apply a published client; raises Poison, and keeps the former state, for an invalid event."""
        change = event.data
        if not isinstance(change, ClientChanged):
            return
        if event.attributes.subject != clients.subject(change.name):
            raise Poison(f"client {change.name!r:.100} has the record key {event.attributes.subject!r:.100}")
        if faults := clients.faults(change):
            raise Poison(f"client {change.name!r:.100}: {faults[0]}")
        before = self._published.get(change.name)
        if before is not None and change.revision <= before.revision:
            return
        hashes = [bytes.fromhex(key.sha256) for key in change.keys]
        own = set() if before is None else set(before.hashes)
        if any(sha256 in self._by_hash and sha256 not in own for sha256 in hashes):
            raise Poison(f"client {change.name!r}: another client has one of its keys")
        meter = before.meter if before is not None else None
        if change.limit != (None if meter is None else meter.limit):
            meter = self._meter(change.limit)
        if change.name not in self.file_names:
            callers = [self._of_key(change, key, meter) for key in change.keys]
            for sha256, caller in zip(hashes, callers, strict=True):
                if (known := self._by_hash.get(sha256)) is not None:
                    caller.calls, caller.last = known.calls, known.last
            for sha256 in own:
                del self._by_hash[sha256]
            self._by_hash.update(zip(hashes, callers, strict=True))
        else:
            hashes = []
        self._published[change.name] = _Published(change.revision, hashes, meter)
        self._changed.set()
        self._changed = asyncio.Event()

    def caught_up(self) -> None:
        """Accept published clients from now on: all events up to the topic's end have been applied."""
        self._complete = True

    async def in_force(self, name: str, revision: int) -> None:
        """Wait until this process knows this revision of a client, or a later one."""
        while (known := self._published.get(name)) is None or known.revision < revision:
            await self._changed.wait()

    def uses(self) -> list[tuple[Principal, KeyUse]]:
        """The keys used since the previous call of this method."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        used = []
        for caller in self._by_hash.values():
            if caller.calls:
                at = to_text(now - timedelta(seconds=monotonic - caller.last))
                use = KeyUse(client=caller.principal.name, key=caller.key_id, calls=caller.calls, last_used_at=at)
                used.append((caller.principal, use))
                caller.calls = 0
        return used

    def _identify(self, request: Request) -> Caller:
        secret = _bearer(request.scope["headers"])
        if not secret:
            raise self._unknown(request, "no-key", "No API key: send it as `Authorization: Bearer pp_...`.")
        sha256 = hashlib.sha256(secret)
        caller = self._by_hash.get(sha256.digest())
        if caller is None:
            return self._unlisted(request, secret, clients.key_id(sha256.hexdigest()))
        if not self._complete and sha256.digest() not in self._file_hashes:
            raise _clients_unknown()
        if caller.until is not None and self._clock.now().timestamp() > caller.until + SKEW_SECONDS:
            raise self._ended(request, caller)
        return caller

    def _unlisted(self, request: Request, secret: bytes, key_id: str) -> Caller:
        if self._tokens is not None and secret.count(b".") == _TOKEN_DOTS:
            return self._person(request, self._tokens, secret)
        if not ids.is_well_formed_api_key(secret.decode("latin-1")):
            detail = "Not an API key, or mistyped: its check digits are wrong."
            raise self._unknown(request, "mistyped-key", detail)
        if not self._complete:
            raise _clients_unknown()
        detail = "Unknown API key: it belongs to another environment, or its client has been removed."
        raise self._unknown(request, "unknown-key", detail, key_id)

    def _person(self, request: Request, tokens: TokenVerifier, secret: bytes) -> Caller:
        try:
            person = tokens.principal(secret.decode("latin-1"))
        except TokenRejected as error:
            raise self._unknown(request, error.reason, str(error)) from error
        meter = self._people.pop(person.name, None) or Meter(_LIMIT_OF_A_PERSON, self._clock)
        self._people[person.name] = meter
        if len(self._people) > _MAX_PEOPLE:
            self._people.popitem(last=False)
        return self._caller(person, "", meter, None)

    def _ended(self, request: Request, caller: Caller) -> Problem:
        principal = caller.principal
        request.scope[CALLER] = Caller(principal, caller.key_id, self._refusals, reason=caller.end_reason)
        return _unauthorized(_ENDED[caller.end_reason].format(name=principal.name))

    def _unknown(self, request: Request, reason: str, detail: str, key_id: str = "") -> Problem:
        request.scope[CALLER] = Caller(UNKNOWN, key_id, self._refusals, reason=reason)
        return _unauthorized(detail) if reason != "no-key" else _unauthorized(detail, "Bearer")

    def _caller(
        self,
        principal: Principal,
        key_sha256: str,
        meter: Meter | None,
        until: float | None,
        end_reason: str = "expired-key",
    ) -> Caller:
        regions = self._regions
        outside = regions is not None and not any(map(principal.may_act_in, regions))
        key = clients.key_id(key_sha256)
        return Caller(principal, key, self._refusals, meter=meter, until=until, outside=outside, end_reason=end_reason)

    def _of_key(self, change: ClientChanged, key: ClientKey, meter: Meter | None) -> Caller:
        scopes = clients.opened(change.scopes, change.platforms)
        principal = Principal(change.name, scopes, frozenset(change.regions), frozenset(change.platforms))
        if change.state != clients.ACTIVE:
            return self._caller(principal, key.sha256, meter, -math.inf, "disabled-client")
        if key.revoked_at:
            return self._caller(principal, key.sha256, meter, -math.inf, "revoked-key")
        return self._caller(principal, key.sha256, meter, _until(key.expires_at))

    def _meter(self, limit: RateLimit | None) -> Meter | None:
        return None if limit is None else Meter(limit, self._clock)


def charge(request: Request, items: int) -> None:
    """Charge a call's items to the item limit of its caller."""
    caller: Caller | None = request.scope.get(CALLER)
    if caller is not None and caller.meter is not None:
        caller.meter.charge(items)


def record_refused(request: Request, reason: str, status: int, count: int) -> None:
    """Record refused lines of a batch, whose response as a whole is successful."""
    caller: Caller | None = request.scope.get(CALLER)
    if caller is not None and count:
        caller.record(reason, request.method, route_of(request.scope), status, count)


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, secret = value.partition(b" ")
            return secret.strip() if scheme.lower() == b"bearer" else b""
    return b""


def _until(expires_at: str) -> float | None:
    moment = from_text_or_none(expires_at) if expires_at else None
    return None if moment is None else moment.timestamp()


_ENDED: Final = {
    "expired-key": "This API key of client {name!r} has expired. Use its successor, or request a new key.",
    "revoked-key": "This API key of client {name!r} was revoked. Use its successor, or request a new key.",
    "disabled-client": "Client {name!r} is disabled; its keys are not accepted.",
}


def _unauthorized(detail: str, challenge: str = 'Bearer error="invalid_token"') -> Problem:
    return UNAUTHORIZED(detail, headers={"WWW-Authenticate": challenge})


def _clients_unknown() -> Problem:
    return NOT_READY(
        "The clients are not known yet: the control topic has not been read to its end. Send the same request again.",
        retry_after=2,
    )


def _rate_limited(name: str, limit: RateLimit, wait: float) -> Problem:
    items = f", and {limit.items_per_second:g} items" if limit.items_per_second else ""
    detail = f"Client {name!r} may make {limit.requests_per_second:g} calls a second, {limit.burst} at once{items}."
    return RATE_LIMITED(detail, retry_after=max(1, math.ceil(wait)))
