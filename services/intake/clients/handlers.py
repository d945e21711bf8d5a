"""Use cases of clients and their keys, and the projection of key usage.

A change is one transaction with its event on the control topic. The text of a key exists only in the response of the
call that created it. This call therefore cannot be repeated with the same response: with an `Idempotency-Key`, a
repetition creates no second key and returns the id of the first one.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from services.intake.clients import domain
from services.intake.clients.domain import ApiKeyRecord, ClientPatch, ClientRecord, NewClient
from shared.auth import clients
from shared.auth.principal import Principal
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import GLOBAL, Attributes, Encoded, encode
from shared.contracts.events import CLIENT_CHANGED, AccessUsed
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.positions import NO_MOVES, Moves
from shared.runtime.clock import Clock, from_text, from_text_or_none, to_text
from shared.runtime.errors import Poison
from shared.validation.faults import CHANGED_MEANWHILE, INVALID_REQUEST, KEY_REUSED, InputRejected

SOURCE: Final = "piepowder/intake"
_IN_FORCE_SECONDS: Final = 3.0


class ClientWork(Protocol):
    """A transaction of the store: `services.intake.clients.store`."""

    async def lock(self, name: str) -> ClientRecord | None: ...
    async def add(self, client: ClientRecord) -> bool: ...
    async def save(self, client: ClientRecord) -> None: ...
    async def publish(self, topic: str, event: Encoded) -> None: ...


class ClientStore(Protocol):
    """Stores clients: `services.intake.clients.store`."""

    def work(self) -> AbstractAsyncContextManager[ClientWork]: ...
    async def client(self, name: str) -> ClientRecord | None: ...

    async def page(
        self, after: str, limit: int, *, regions: frozenset[str], state: str | None
    ) -> Sequence[ClientRecord]: ...
    async def note_use(self, uses: Sequence[tuple[str, str, datetime]], moves: Moves = NO_MOVES) -> None: ...


class ClientsInForce(Protocol):
    """The clients in force in this process: `shared.auth.authenticator`."""

    @property
    def file_names(self) -> frozenset[str]: ...
    async def in_force(self, name: str, revision: int) -> None: ...


class IdempotentCall(NamedTuple):
    """The idempotency key of a call, and a hash of its body."""

    key: str
    body: str


class NewKey(NamedTuple):
    """A new key; `secret` is its text, which is not stored."""

    client: ClientRecord
    key: ApiKeyRecord
    secret: str


class Registry:
    """The use cases of clients. `environment` is part of new keys; `wake` starts the outbox relay."""

    def __init__(
        self, store: ClientStore, *, in_force: ClientsInForce, environment: str, wake: Callable[[], None], clock: Clock
    ) -> None:
        self._store = store
        self._in_force = in_force
        self._environment = environment
        self._wake = wake
        self._clock = clock

    def now(self) -> datetime:
        """The current time, for the states of keys."""
        return self._clock.now()

    async def show(self, name: str, by: Principal) -> ClientRecord:
        """A client that `by` can see; raises InputRejected (404) if there is none."""
        found = await self._store.client(name)
        if found is None or not domain.is_visible(found, by.regions):
            raise _no_client(name)
        return found

    async def page(
        self, after: str, limit: int, state: str | None, by: Principal
    ) -> tuple[list[ClientRecord], str | None]:
        """Clients after a name in order, and the name to continue after, None at the end."""
        found = list(await self._store.page(after, limit + 1, regions=by.regions, state=state))
        return found[:limit], found[limit - 1].name if len(found) > limit else None

    async def create(self, new: NewClient, by: Principal) -> tuple[ClientRecord, bool]:
        """Create a client without keys; True if it is new. A repetition returns it with False. Raises InputRejected."""
        if new.name in self._in_force.file_names:
            detail = f"The name {new.name!r} is in the clients file, which has priority over this API."
            raise domain.EXISTS.with_message(detail, "/name")
        client = domain.created(new, self._clock.now())
        domain.check_platforms(client)
        domain.check_grant(client, None, by)
        async with self._store.work() as work:
            if await work.add(client):
                await work.publish(topics.CONTROL, self._event(client, "created", by))
            else:
                existing = await work.lock(new.name)
                if (
                    existing is None
                    or not domain.is_visible(existing, by.regions)
                    or not domain.is_as_created(existing, new)
                ):
                    detail = f"Another client {new.name!r} exists. Change it or choose another name."
                    raise domain.EXISTS.with_message(detail, "/name")
                return existing, False
        self._wake()
        return client, True

    async def change(self, name: str, patch: ClientPatch, revision: int | None, by: Principal) -> ClientRecord:
        """Change a client, only at `revision` if it is given. Raises InputRejected."""
        async with self._store.work() as work:
            client = await self._lock(work, name, by)
            if revision not in (None, client.revision):
                detail = f"Client {name!r} was changed and is at revision {client.revision}. Read it again."
                raise CHANGED_MEANWHILE.with_message(detail, "/revision")
            after = domain.changed(client, patch, self._clock.now())
            domain.check_platforms(after, patch)
            domain.check_grant(after, client, by)
            await self._save(work, client, after, _change_name(client, after), by)
        self._wake()
        return after

    async def add_key(
        self,
        name: str,
        *,
        expires_at: datetime | None,
        others_expire_at: datetime | None,
        call: IdempotentCall | None,
        by: Principal,
    ) -> NewKey:
        """Create a key. Raises InputRejected."""
        secret = ids.new_api_key(self._environment)
        async with self._store.work() as work:
            client = await self._lock(work, name, by)
            domain.check_grant(client, None, by)
            if call is not None:
                _require_new_call(client, call)
            now = self._clock.now()
            for moment, field in ((expires_at, "expires_at"), (others_expire_at, "others_expire_at")):
                if moment is not None and moment <= now:
                    detail = f"{to_text(moment)} is not in the future; the server's time is {to_text(now)}."
                    raise INVALID_REQUEST.with_message(detail, f"/{field}")
            key = ApiKeyRecord(
                sha256=ids.hash_api_key(secret),
                created_at=now,
                expires_at=expires_at,
                made_with=None if call is None else call.key,
                made_body=None if call is None else call.body,
            )
            after = domain.with_key(client, key, others_expire_at, now)
            await self._save(work, client, after, "key_added", by)
        self._wake()
        return NewKey(after, key, secret)

    async def revoke(self, name: str, key_id: str, by: Principal) -> ClientRecord:
        """Revoke a key. A repetition changes nothing. Raises InputRejected."""
        async with self._store.work() as work:
            client = await self._lock(work, name, by)
            after = domain.without_key(client, key_id, self._clock.now())
            await self._save(work, client, after, "key_revoked", by)
        self._wake()
        return after

    async def is_in_force(self, client: ClientRecord) -> bool:
        """True if the client is in force in this process, after a wait of up to 3 seconds."""
        try:
            async with asyncio.timeout(_IN_FORCE_SECONDS):
                await self._in_force.in_force(client.name, client.revision)
        except TimeoutError:
            return False
        return True

    async def _lock(self, work: ClientWork, name: str, by: Principal) -> ClientRecord:
        client = await work.lock(name)
        if client is None or not domain.is_visible(client, by.regions):
            raise _no_client(name)
        return client

    async def _save(
        self, work: ClientWork, before: ClientRecord, after: ClientRecord, change: str, by: Principal
    ) -> None:
        if after is not before:
            await work.save(after)
            await work.publish(topics.CONTROL, self._event(after, change, by))

    def _event(self, client: ClientRecord, change: str, by: Principal) -> Encoded:
        event_id = ids.event_id(f"client:{client.name}", CLIENT_CHANGED, client.revision)
        attributes = Attributes(
            event_id, CLIENT_CHANGED, SOURCE, to_text(client.changed_at), clients.subject(client.name), GLOBAL, event_id
        )
        return encode(attributes, domain.to_event(client, change, by.name))


class KeyUseProjection:
    """The consumer's handler for one region: stores the last use of each key in any service."""

    def __init__(self, region: str, store: ClientStore) -> None:
        self.group = f"piepowder-intake-clients-{region}"
        self.topics = [topics.access(region)]
        self._region = region
        self._store = store

    def decode(self, record: RawRecord) -> AccessUsed | None:
        """The used keys in a record, None for other events. Raises Poison for an invalid event."""
        event = envelope.decode(record.headers, record.key, record.value, region=self._region)
        if not isinstance(event.data, AccessUsed):
            return None
        for use in event.data.keys:
            if from_text_or_none(use.last_used_at) is None:
                raise Poison(f"last_used_at {use.last_used_at!r:.60} is not a time")
        return event.data

    async def handle(self, batch: Sequence[Received[AccessUsed | None]], moves: Moves = NO_MOVES) -> None:
        """Store a batch; a repetition changes nothing."""
        latest: dict[tuple[str, str], datetime] = {}
        for received in batch:
            for use in received.message.keys if received.message is not None else ():
                key, at = (use.client, use.key), from_text(use.last_used_at)
                latest[key] = max(latest.get(key, at), at)
        if latest or moves.moves:
            await self._store.note_use([(*key, at) for key, at in latest.items()], moves)


def _require_new_call(client: ClientRecord, call: IdempotentCall) -> None:
    made = next((key for key in client.keys if key.made_with == call.key), None)
    if made is None:
        return
    if made.made_body != call.body:
        detail = "This Idempotency-Key was used with another body; use a new one for a new API key."
        raise KEY_REUSED.with_message(detail, "/header/idempotency-key")
    detail = (
        f"The call with this Idempotency-Key created key {made.key_id}, which cannot be shown again. If the response"
        " was lost, revoke this key and create another one."
    )
    raise domain.KEY_SHOWN.with_message(detail)


def _change_name(before: ClientRecord, after: ClientRecord) -> str:
    if before.state != after.state:
        return "disabled" if after.state == clients.DISABLED else "enabled"
    return "changed"


def _no_client(name: str) -> InputRejected:
    return domain.UNKNOWN_CLIENT.with_message(f"No client {name!r:.100} is visible to this key.")
