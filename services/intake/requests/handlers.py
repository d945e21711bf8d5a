"""Use cases of business requests. Each one is a transaction with the change and its events.

The router is called outside of a transaction, because it can be slow. Its result is stored only if the request still
has the version that was checked. The id of a draft derives from the client and its `Idempotency-Key`, and the id of a
comment also from the request, so that a repeated call finds the first result.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

from services.intake import errors
from services.intake.requests.domain import drafts, lifecycle
from services.intake.requests.domain.drafts import Draft, MarketOwners
from services.intake.requests.domain.lifecycle import ChangeCheck, Request, RequestStep, RequestTransition
from services.intake.requests.domain.queries import Drafted, RequestCursor, RequestFilter
from shared.auth.principal import REGION_NOT_ALLOWED, Principal
from shared.contracts import ids, topics
from shared.contracts.envelope import Encoded, encode
from shared.contracts.events import ProposedChange
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Transient
from shared.validation.documents import ParsedDocument
from shared.validation.faults import (
    CHANGED_MEANWHILE,
    IN_FLIGHT,
    INVALID_REQUEST,
    KEY_REUSED,
    Fault,
    InputRejected,
    RejectionType,
)

NOT_FOUND: Final = msgspec.structs.replace(
    errors.NOT_FOUND,
    title="No such business request",
    example="No business request '0d9f...' exists in a region of this key.",
)
STALE: Final = RejectionType(
    "precondition-failed", 412, "The request has changed", 'The request is at version "3": read this version'
)

ANY_VERSION: Final = -1
Versions: TypeAlias = Collection[int] | None
"""The versions that a call accepts; None or `ANY_VERSION` for any version."""


class ChangeChecker(Protocol):
    """Lets the router check a change: `services.intake.requests.router_client`."""

    async def check(self, change: ProposedChange) -> ChangeCheck:
        """The differences between a change and the versions in force.

        Raises InputRejected with pointers below `/change` for an invalid change, Transient when the router does not
        respond or is overloaded.
        """


class RequestWork(Protocol):
    """A transaction of the store: `services.intake.requests.store`."""

    async def add(self, request: Request, change: bytes | None, body: str) -> bool: ...
    async def request(self, request_id: str) -> Request | None: ...
    async def save(self, request: Request) -> None: ...
    async def attach(self, request_id: str, change: bytes | None) -> None: ...
    async def add_step(self, request_id: str, step: RequestStep) -> None: ...
    async def comment(self, comment_id: str) -> RequestStep | None: ...
    async def publish(self, events: Sequence[tuple[str, Encoded]]) -> None: ...


class RequestStore(Protocol):
    """Stores requests: `services.intake.requests.store`."""

    def work(self) -> AbstractAsyncContextManager[RequestWork]: ...
    async def request(self, request_id: str) -> tuple[Request, bytes | None, list[RequestStep]] | None: ...
    async def drafted(self, request_id: str) -> Drafted | None: ...
    async def page(self, wanted: RequestFilter, after: RequestCursor | None, limit: int) -> list[Request]: ...


class RequestDetails(NamedTuple):
    """A request with its change (as JSON; None when it has none) and its history."""

    request: Request
    change: bytes | None
    steps: Sequence[RequestStep]


class Requests:
    """The use cases. `owners` returns the owners of markets under the operating model in force, if there is one."""

    def __init__(
        self,
        store: RequestStore,
        *,
        checker: ChangeChecker,
        owners: Callable[[], MarketOwners | None],
        countries: Collection[str],
        regions: Sequence[str],
        clock: Clock,
        approvals_needed: int,
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._checker = checker
        self._owners = owners
        self._countries = countries
        self.regions = regions
        self._clock = clock
        self._approvals_needed = approvals_needed
        self._wake = wake
        self._in_progress: set[str] = set()

    async def draft(self, draft: Draft, client: Principal, key: str) -> Request:
        """Create a draft. A repeated call returns the draft as it was created. Raises InputRejected.

        The router checks the change at once. When the router does not respond, the change is stored unchecked.
        """
        _require_regions(client, draft.regions)
        request_id = ids.derive("request", client.name, key)
        body = drafts.content_hash(draft)
        with self._exclusive(request_id):
            drafted = await self._store.drafted(request_id)
            if drafted is None:
                self._require_valid_draft(draft)
                outcome = lifecycle.draft(
                    request_id,
                    drafts.content(draft),
                    await self._check(draft.change, keep_unchecked=True),
                    by=client.name,
                    at=self._now(),
                    approvals_needed=self._approvals_needed,
                )
                async with self._store.work() as work:
                    is_new = await work.add(outcome.request, _encoded(draft.change), body)
                    if is_new:
                        await self._record(work, outcome)
                if is_new:
                    self._wake()
                    return outcome.request
                drafted = await self._store.drafted(request_id)
        if drafted is None or drafted.body != body:
            raise _key_reused()
        return drafted.request

    async def change(
        self, request_id: str, patch: Callable[[Draft], ParsedDocument[Draft]], client: Principal, versions: Versions
    ) -> Request:
        """Change a draft; `patch` applies a JSON merge patch. Raises InputRejected.

        The router checks a new change at once. When the router does not respond, the change is stored unchecked.
        """
        before, encoded, _ = await self.show(request_id, client)
        _require_regions(client, before.content.regions)
        _require_version(before, versions)
        lifecycle.require_draft(before)
        draft = drafts.require_valid(patch(drafts.draft_of(before.content, _decoded(encoded))))
        _require_regions(client, draft.regions)
        self._require_valid_draft(draft)
        content, check = drafts.content(draft), before.check
        if content.change_hash != before.content.change_hash or check.verdict == lifecycle.UNCHECKED:
            check = await self._check(draft.change, keep_unchecked=True)

        def change(request: Request) -> RequestTransition | None:
            if request.version != before.version:
                raise _changed_meanwhile(request, versions)
            return lifecycle.change(request, content, check, by=client.name, at=self._now())

        attached = _encoded(draft.change)
        return await self._apply(change, request_id, client, lambda work: work.attach(request_id, attached))

    async def submit(self, request_id: str, reason: str, client: Principal, versions: Versions) -> Request:
        """Submit a complete draft whose change the router has checked.

        Raises InputRejected, Transient while the router does not respond.
        """
        before, attached, _ = await self.show(request_id, client)
        _require_regions(client, before.content.regions)
        if lifecycle.is_done(before, lifecycle.SUBMIT, client.name, reason):
            return before
        _require_version(before, versions)
        lifecycle.require_draft(before)
        change = _decoded(attached)
        draft = drafts.draft_of(before.content, change)
        self._require_valid_draft(draft, drafts.missing(draft))
        check = await self._check(change, keep_unchecked=False)
        needed = self._approvals_needed

        def submit(request: Request) -> RequestTransition | None:
            is_done = lifecycle.is_done(request, lifecycle.SUBMIT, client.name, reason)
            if request.version != before.version and not is_done:
                raise _changed_meanwhile(request, versions)
            return lifecycle.submit(
                request, change, check, by=client.name, reason=reason, at=self._now(), approvals_needed=needed
            )

        return await self._apply(submit, request_id, client)

    async def act(self, request_id: str, command: str, reason: str, client: Principal, versions: Versions) -> Request:
        """Execute a command other than `submit`. Raises InputRejected."""

        def act(request: Request) -> RequestTransition | None:
            if not lifecycle.is_done(request, command, client.name, reason):
                _require_version(request, versions)
            return lifecycle.act(request, command, by=client.name, reason=reason, at=self._now())

        return await self._apply(act, request_id, client)

    async def comment(self, request_id: str, text: str, client: Principal, key: str) -> RequestStep:
        """Add a comment. A repeated call returns the first comment. Raises InputRejected."""
        comment_id = ids.derive("comment", request_id, client.name, key)
        with self._exclusive(comment_id):
            async with self._store.work() as work:
                request = await self._lock(work, request_id, client)
                first = await work.comment(comment_id)
                if first is not None:
                    if first.text != text:
                        raise _key_reused()
                    return first
                outcome = lifecycle.comment(request, comment_id, text, by=client.name, at=self._now())
                await work.save(outcome.request)
                await self._record(work, outcome)
        self._wake()
        return outcome.step

    async def show(self, request_id: str, client: Principal) -> RequestDetails:
        """A request. Raises InputRejected for an unknown request, or a request without a region of the client."""
        found = await self._store.request(request_id)
        if found is None or not _may_see(client, found[0]):
            raise _no_such(request_id)
        return RequestDetails(*found)

    async def page(self, wanted: RequestFilter, after: RequestCursor | None, limit: int) -> list[Request]:
        """Requests after the cursor `after`, newest first."""
        return await self._store.page(wanted, after, limit)

    async def _apply(
        self,
        transition: Callable[[Request], RequestTransition | None],
        request_id: str,
        client: Principal,
        store_more: Callable[[RequestWork], Awaitable[None]] | None = None,
    ) -> Request:
        """Apply a transition, and store it with its events. Returns the request, unchanged if `transition` returns
        None."""
        async with self._store.work() as work:
            request = await self._lock(work, request_id, client)
            outcome = transition(request)
            if outcome is None:
                return request
            await work.save(outcome.request)
            if store_more is not None:
                await store_more(work)
            await self._record(work, outcome)
        self._wake()
        return outcome.request

    @staticmethod
    async def _lock(work: RequestWork, request_id: str, client: Principal) -> Request:
        request = await work.request(request_id)
        if request is None or not _may_see(client, request):
            raise _no_such(request_id)
        _require_regions(client, request.content.regions)
        return request

    async def _record(self, work: RequestWork, outcome: RequestTransition) -> None:
        await work.add_step(outcome.request.request_id, outcome.step)
        events = [(event.attributes, event.data) for event in outcome.events]
        await work.publish([(topics.requests(about.region), encode(about, data)) for about, data in events])

    async def _check(self, change: ProposedChange | None, *, keep_unchecked: bool) -> ChangeCheck:
        if change is None:
            return ChangeCheck()
        try:
            check = await self._checker.check(change)
        except Transient as error:
            if not keep_unchecked:
                raise
            check = ChangeCheck(verdict=lifecycle.UNCHECKED, reason=str(error))
        return msgspec.structs.replace(check, checked_at=self._now())

    def _require_valid_draft(self, draft: Draft, missing: Sequence[Fault] = ()) -> None:
        owners = self._owners()
        if owners is None:
            raise Transient("No operating model is published.")
        found = [*drafts.faults(draft, owners, self._countries, self._clock.now().date()), *missing]
        if found:
            raise InputRejected(INVALID_REQUEST, found)

    def _now(self) -> str:
        return to_text(self._clock.now())

    @contextmanager
    def _exclusive(self, made: str) -> Iterator[None]:
        """Reserve an id for this call; raises InputRejected while another call creates the same object."""
        if made in self._in_progress:
            raise IN_FLIGHT("a call with the same Idempotency-Key is in progress; send the same call again in a moment")
        self._in_progress.add(made)
        try:
            yield
        finally:
            self._in_progress.discard(made)


def _encoded(change: ProposedChange | None) -> bytes | None:
    return None if change is None else ids.canonical(change)


_decode_change = msgspec.json.Decoder(ProposedChange).decode


def _decoded(change: bytes | None) -> ProposedChange | None:
    return None if change is None else _decode_change(change)


def _may_see(client: Principal, request: Request) -> bool:
    return any(client.may_act_in(region) for region in request.content.regions)


def _require_regions(client: Principal, regions: Sequence[str]) -> None:
    faults = [
        Fault(f"/regions/{index}", f"the request concerns region {region!r:.60}; {client.described_regions()}")
        for index, region in enumerate(regions)
        if not client.may_act_in(region)
    ]
    if faults:
        raise InputRejected(REGION_NOT_ALLOWED, faults)


def _require_version(request: Request, versions: Versions) -> None:
    if versions is not None and not {request.version, ANY_VERSION} & {*versions}:
        raise _stale(request)


def _changed_meanwhile(request: Request, versions: Versions) -> InputRejected:
    if versions is not None and ANY_VERSION not in versions:
        return _stale(request)
    reached = f"the request reached version {request.version} while this call was checked"
    return CHANGED_MEANWHILE(f"{reached}; read it and send the call again")


def _stale(request: Request) -> InputRejected:
    detail = f'the request is at version "{request.version}": read this version and change it'
    return STALE(detail, "/header/if-match")


def _no_such(request_id: str) -> InputRejected:
    return NOT_FOUND(f"no business request {request_id!r:.60} exists in a region of this key")


def _key_reused() -> InputRejected:
    detail = "this Idempotency-Key was used with another body; use a new key for a new request"
    return KEY_REUSED(detail, "/header/idempotency-key")
