"""What is done with clients: make, change, give keys, end keys; and note when keys were used.

Every change is one transaction with its event on the control topic. A key's text exists in one answer and nowhere else,
so a call that makes one cannot be answered twice alike: with an `Idempotency-Key`, the same call again makes no second
key, and says which one it made.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from services.intake.clients import domain
from services.intake.clients.domain import ApiKeyRecord, ClientChangeRejected, ClientPatch, ClientRecord, Granting
from shared.auth import clients
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import GLOBAL, Attributes, Encoded, encode
from shared.contracts.events import CLIENT_CHANGED, AccessUsed, RateLimit
from shared.kafka.consumer import RawRecord, Received
from shared.runtime.clock import Clock, from_text, to_text
from shared.runtime.errors import Poison

SOURCE: Final = "piepowder/intake"
_IN_FORCE_SECONDS: Final = 3.0


class ClientWork(Protocol):
    """A transaction; see `services.intake.clients.store`."""

    async def lock(self, name: str) -> ClientRecord | None: ...

    async def add(self, client: ClientRecord) -> bool: ...

    async def keep(self, client: ClientRecord) -> None: ...

    async def tell(self, topic: str, event: Encoded) -> None: ...


class ClientStore(Protocol):
    """Where clients are kept."""

    def work(self) -> AbstractAsyncContextManager[ClientWork]: ...

    async def client(self, name: str) -> ClientRecord | None: ...

    async def page(
        self, after: str, limit: int, *, regions: frozenset[str], state: str | None
    ) -> Sequence[ClientRecord]: ...

    async def used(self, uses: Sequence[tuple[str, str, datetime]]) -> None: ...


class ClientsInForce(Protocol):
    """What this process has been told of clients; see `shared.auth.authenticator`."""

    @property
    def file_names(self) -> frozenset[str]: ...

    async def in_force(self, name: str, revision: int) -> None: ...


class IdempotentCall(NamedTuple):
    """The name that a caller gave to a call, and a digest of what it sent."""

    key: str
    body: str


class NewKey(NamedTuple):
    """A key that was made; `secret` is known here alone."""

    client: ClientRecord
    key: ApiKeyRecord
    secret: str


class Registry:
    """Keeps clients. `environment` stands in the keys; `wake` says that there is something to publish."""

    def __init__(
        self, store: ClientStore, *, in_force: ClientsInForce, environment: str, wake: Callable[[], None], clock: Clock
    ) -> None:
        self._store = store
        self._in_force = in_force
        self._environment = environment
        self._wake = wake
        self._clock = clock

    async def show(self, name: str, by: Granting) -> ClientRecord:
        """A client, if whoever asks may see it; raises ClientChangeRejected 404 when there is none."""
        found = await self._store.client(name)
        if found is None or not domain.is_visible(found, by.regions):
            raise _no_client(name)
        return found

    async def page(
        self, after: str, limit: int, state: str | None, by: Granting
    ) -> tuple[list[ClientRecord], str | None]:
        """Clients behind a name, and the name to go on behind, None at the end."""
        found = list(await self._store.page(after, limit + 1, regions=by.regions, state=state))
        return found[:limit], found[limit - 1].name if len(found) > limit else None

    async def create(
        self,
        *,
        name: str,
        description: str,
        scopes: frozenset[str],
        regions: frozenset[str],
        platforms: frozenset[str],
        limit: RateLimit | None,
        by: Granting,
    ) -> tuple[ClientRecord, bool]:
        """A new client without a key, and whether it is new: the same again finds it. Raises ClientChangeRejected."""
        if name in self._in_force.file_names:
            detail = f"The name {name!r} is one of the clients file, whose clients go before those that are made here."
            raise ClientChangeRejected(409, "client-exists", detail, "/name")
        new = domain.created(
            name=name,
            description=description,
            scopes=scopes,
            regions=regions,
            platforms=platforms,
            limit=limit,
            now=self._clock.now(),
        )
        domain.check_platforms(new)
        domain.check_grant(new, None, by)
        async with self._store.work() as work:
            if await work.add(new):
                await work.tell(topics.CONTROL, self._event(new, "created", by))
            else:
                known = await work.lock(name)
                if known is None or not domain.is_visible(known, by.regions) or not domain.is_as_created(known, new):
                    detail = f"There is another client {name!r} already. Change it, or choose another name."
                    raise ClientChangeRejected(409, "client-exists", detail, "/name")
                return known, False
        self._wake()
        return new, True

    async def change(self, name: str, patch: ClientPatch, revision: int | None, by: Granting) -> ClientRecord:
        """The client after a change. With `revision`, only if that is what it is at. Raises ClientChangeRejected."""
        async with self._store.work() as work:
            client = await self._locked(work, name, by)
            if revision not in (None, client.revision):
                detail = f"Client {name!r} was changed meanwhile, and is at revision {client.revision}. Look again."
                raise ClientChangeRejected(409, "changed-meanwhile", detail, "/revision")
            after = domain.changed(client, patch, self._clock.now())
            domain.check_platforms(after, patch)
            domain.check_grant(after, client, by)
            await self._keep(work, client, after, _what_changed(client, after), by)
        self._wake()
        return after

    async def add_key(
        self,
        name: str,
        *,
        expires_at: datetime | None,
        others_expire_at: datetime | None,
        call: IdempotentCall | None,
        by: Granting,
    ) -> NewKey:
        """A new key of a client, its others ending at a time if one is given. Raises ClientChangeRejected."""
        secret = ids.new_api_key(self._environment)
        async with self._store.work() as work:
            client = await self._locked(work, name, by)
            domain.check_grant(client, None, by)
            if call is not None:
                _check_first_time(client, call)
            now = self._clock.now()
            for moment, field in ((expires_at, "expires_at"), (others_expire_at, "others_expire_at")):
                if moment is not None and moment <= now:
                    detail = f"{to_text(moment)} is not in the future; it is {to_text(now)} here."
                    raise ClientChangeRejected(422, "invalid-request", detail, f"/{field}")
            key = ApiKeyRecord(
                sha256=ids.hash_api_key(secret),
                created_at=now,
                expires_at=expires_at,
                made_with=None if call is None else call.key,
                made_body=None if call is None else call.body,
            )
            after = domain.with_key(client, key, others_expire_at, now)
            await self._keep(work, client, after, "key_added", by)
        self._wake()
        return NewKey(after, key, secret)

    async def revoke(self, name: str, key_id: str, by: Granting) -> ClientRecord:
        """The client with a key revoked; the same again changes nothing. Raises ClientChangeRejected."""
        async with self._store.work() as work:
            client = await self._locked(work, name, by)
            after = domain.without_key(client, key_id, self._clock.now())
            await self._keep(work, client, after, "key_revoked", by)
        self._wake()
        return after

    async def is_in_force(self, client: ClientRecord) -> bool:
        """Whether this process goes by what a client is now; waits for it, for a few seconds."""
        try:
            async with asyncio.timeout(_IN_FORCE_SECONDS):
                await self._in_force.in_force(client.name, client.revision)
        except TimeoutError:
            return False
        return True

    async def _locked(self, work: ClientWork, name: str, by: Granting) -> ClientRecord:
        client = await work.lock(name)
        if client is None or not domain.is_visible(client, by.regions):
            raise _no_client(name)
        return client

    async def _keep(
        self, work: ClientWork, before: ClientRecord, after: ClientRecord, change: str, by: Granting
    ) -> None:
        if after is not before:
            await work.keep(after)
            await work.tell(topics.CONTROL, self._event(after, change, by))

    def _event(self, client: ClientRecord, change: str, by: Granting) -> Encoded:
        event_id = ids.event_id(f"client:{client.name}", CLIENT_CHANGED, client.revision)
        attributes = Attributes(
            event_id,
            CLIENT_CHANGED,
            SOURCE,
            to_text(client.changed_at),
            clients.subject(client.name),
            GLOBAL,
            event_id,
        )
        return encode(attributes, domain.told(client, change, by.name))


class KeyUseProjection:
    """Follows which keys were used in a region's services, for intake's own calls and everybody's."""

    def __init__(self, region: str, store: ClientStore) -> None:
        self.group = f"piepowder-intake-clients-{region}"
        self.topics = [topics.access(region)]
        self._region = region
        self._store = store

    def decode(self, record: RawRecord) -> AccessUsed | None:
        """What a record says of used keys, None for another event; raises Poison for what is no event."""
        event = envelope.decode(record.headers, record.key, record.value, region=self._region)
        if not isinstance(event.data, AccessUsed):
            return None
        for use in event.data.keys:
            if clients.moment(use.last_used_at) is None:
                raise Poison(f"last_used_at {use.last_used_at!r:.60} is not a time")
        return event.data

    async def handle(self, batch: Sequence[Received[AccessUsed | None]]) -> None:
        """Note a batch; a repeat changes nothing."""
        latest: dict[tuple[str, str], datetime] = {}
        for received in batch:
            for use in received.message.keys if received.message is not None else ():
                place, at = (use.client, use.key), from_text(use.last_used_at)
                latest[place] = max(latest.get(place, at), at)
        if latest:
            await self._store.used([(*place, at) for place, at in latest.items()])


def _check_first_time(client: ClientRecord, call: IdempotentCall) -> None:
    made = next((key for key in client.keys if key.made_with == call.key), None)
    if made is None:
        return
    if made.made_body != call.body:
        detail = "This Idempotency-Key came with another body before; a new key needs a new one."
        raise ClientChangeRejected(422, "idempotency-key-reused", detail, "/header/idempotency-key")
    detail = (
        f"The call with this Idempotency-Key made key {made.key_id}, which was shown then and cannot be shown again."
        " If its answer was lost, revoke that key and make another."
    )
    raise ClientChangeRejected(409, "key-shown-already", detail)


def _what_changed(before: ClientRecord, after: ClientRecord) -> str:
    if before.state != after.state:
        return "disabled" if after.state == clients.DISABLED else "enabled"
    return "changed"


def _no_client(name: str) -> ClientChangeRejected:
    return ClientChangeRejected(404, "unknown-client", f"There is no client {name!r:.100} that this key may see.")
