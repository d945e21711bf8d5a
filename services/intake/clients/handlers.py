"""Use cases of clients and their keys, and the projection of key usage.

A change is one transaction with its event on the control topic. The text of a key exists only in the response of the
call that created it. This call therefore cannot be repeated with the same response: with an `Idempotency-Key`, a
repetition creates no second key and returns the id of the first one.

The control topic has precedence over the database, which may have been restored from a backup: a client whose published
state is newer than the stored one is stored again before it is shown or changed. An older state that reached the topic
behind a newer one (a restored row of the outbox) is followed by the newer one again, because the compaction of the
topic keeps the last record.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from services.intake import metrics
from services.intake.clients import domain
from services.intake.clients.domain import ApiKeyRecord, ClientPatch, ClientRecord, NewClient, PublishedClient
from shared.auth import clients
from shared.auth.principal import Principal
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import GLOBAL, Attributes, Encoded, Event, encode
from shared.contracts.events import CLIENT_CHANGED, AccessUsed, ClientChanged
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.stored_positions import NO_MOVES, Moves
from shared.runtime.clock import Clock, from_text, from_text_or_none, to_text
from shared.runtime.errors import Poison, Transient
from shared.runtime.retry import wait
from shared.validation.faults import CHANGED_MEANWHILE, INVALID_REQUEST, KEY_REUSED, InputRejected

log = logging.getLogger(__name__)

SOURCE: Final = "piepowder/intake"
_IN_FORCE_SECONDS: Final = 3.0
_CATCH_UP_SECONDS: Final = 10.0


class ClientWork(Protocol):
    """A transaction of the store: `services.intake.clients.store`."""

    async def lock(self, name: str) -> ClientRecord | None: ...
    async def add(self, client: ClientRecord) -> bool: ...
    async def save(self, client: ClientRecord) -> None: ...
    async def publish(self, topic: str, event: Encoded) -> None: ...
    async def discard(self, topic: str, subject: str) -> None: ...


class ClientStore(Protocol):
    """Stores clients: `services.intake.clients.store`."""

    def work(self) -> AbstractAsyncContextManager[ClientWork]: ...
    async def client(self, name: str) -> ClientRecord | None: ...

    async def page(
        self, after: str, limit: int, *, regions: frozenset[str], state: str | None
    ) -> Sequence[ClientRecord]: ...
    async def revisions(self) -> dict[str, int]: ...
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


class PublishedClients:
    """The clients on the control topic. `complete` is True when the topic has been read to its end."""

    def __init__(self) -> None:
        self._by_name: dict[str, PublishedClient] = {}
        self.complete = False

    def apply(self, event: Event[Any]) -> None:
        """Apply a record of the topic that the authenticator has accepted."""
        change = event.data
        if isinstance(change, ClientChanged):
            known = self._by_name.get(change.name)
            self._by_name[change.name] = domain.newest_published(known, change, from_text(event.attributes.time))

    def get(self, name: str) -> PublishedClient | None:
        """The newest published state of a client."""
        return self._by_name.get(name)

    def differing(self, revisions: Mapping[str, int]) -> list[str]:
        """The names of the clients whose published state may differ from the stored one, by its revision."""
        return [
            name
            for name, published in self._by_name.items()
            if (stored := revisions.get(name, 0)) < published.state.revision
            or (not published.is_last and stored == published.state.revision)
        ]


class Registry:
    """The use cases of clients. `environment` is part of new keys; `wake` starts the outbox relay.

    Before a client is shown or changed, its published state replaces an older one of the database (`published`).
    """

    def __init__(
        self,
        store: ClientStore,
        *,
        published: PublishedClients,
        in_force: ClientsInForce,
        environment: str,
        wake: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._published = published
        self._in_force = in_force
        self._environment = environment
        self._wake = wake
        self._clock = clock

    def now(self) -> datetime:
        """The current time, for the states of keys."""
        return self._clock.now()

    async def show(self, name: str, by: Principal) -> ClientRecord:
        """A client that `by` can see; raises InputRejected (404) if there is none."""
        await self.catch_up()
        found = await self._store.client(name)
        if found is None or not domain.is_visible(found, by.regions):
            raise _no_client(name)
        return found

    async def page(
        self, after: str, limit: int, state: str | None, by: Principal
    ) -> tuple[list[ClientRecord], str | None]:
        """Clients after a name in order, and the name to continue after, None at the end."""
        await self.catch_up()
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
            existing = await self._current(work, new.name)
            if existing is None and await work.add(client):
                await work.publish(topics.CONTROL, self._event(client, "created", by.name))
            else:
                existing = existing or await work.lock(new.name)
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

    async def catch_up(self) -> None:
        """Compare the stored clients with the control topic, and correct those that differ."""
        for name in self._published.differing(await self._store.revisions()):
            async with self._store.work() as work:
                await self._current(work, name)
            self._wake()

    async def keep_up(self, stop: asyncio.Event) -> None:
        """Catch up regularly, until stopped."""
        while not stop.is_set():
            await wait(stop, _CATCH_UP_SECONDS)
            try:
                await self.catch_up()
            except Transient as error:
                log.warning("the clients were not compared with the control topic", extra={"error": str(error)})

    async def is_in_force(self, client: ClientRecord) -> bool:
        """True if the client is in force in this process, after a wait of up to 3 seconds."""
        try:
            async with asyncio.timeout(_IN_FORCE_SECONDS):
                await self._in_force.in_force(client.name, client.revision)
        except TimeoutError:
            return False
        return True

    async def _lock(self, work: ClientWork, name: str, by: Principal) -> ClientRecord:
        client = await self._current(work, name)
        if client is None or not domain.is_visible(client, by.regions):
            raise _no_client(name)
        return client

    async def _current(self, work: ClientWork, name: str) -> ClientRecord | None:
        """A client, locked until the end of the transaction, after its published state replaced an older one."""
        stored, published = await work.lock(name), self._published.get(name)
        if published is None:
            return stored
        client = domain.with_published(stored, published)
        if client is not stored:
            if stored is None and not await work.add(client):
                return await self._current(work, name)  # another process has added it
            await work.save(client)
            await work.discard(topics.CONTROL, clients.subject(name))
            metrics.CLIENTS_RESTORED.inc()
            was = None if stored is None else stored.revision
            log.warning(
                "the control topic has a newer state of a client than the database; it replaces the stored one",
                extra={"client": name, "stored": was, "published": published.state.revision},
            )
        if domain.lacks_publication(client, published):
            client = domain.published_again(client, self._clock.now())
            await work.save(client)
            await work.publish(topics.CONTROL, self._event(client, "restored", SOURCE))
        return client

    async def _save(
        self, work: ClientWork, before: ClientRecord, after: ClientRecord, change: str, by: Principal
    ) -> None:
        if after is not before:
            await work.save(after)
            await work.publish(topics.CONTROL, self._event(after, change, by.name))

    def _event(self, client: ClientRecord, change: str, by: str) -> Encoded:
        event_id = ids.event_id(f"client:{client.name}", CLIENT_CHANGED, client.revision)
        attributes = Attributes(
            event_id, CLIENT_CHANGED, SOURCE, to_text(client.changed_at), clients.subject(client.name), GLOBAL, event_id
        )
        return encode(attributes, domain.to_event(client, change, by))


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
