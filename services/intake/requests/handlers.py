"""What can be done with business requests: each use case is one transaction that holds the change and the events of it.

The router is asked outside of any transaction, because it may take its time; what was checked is what is stored, or
nothing is: the version that was read must still be the one that is locked. A draft's id is made of the client and its
`Idempotency-Key`, and a comment's likewise, so the same call again finds what it made the first time.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

from services.intake.domain.faults import Fault
from services.intake.domain.posts import Refused
from services.intake.handlers import Poster
from services.intake.requests.domain import drafts, life
from services.intake.requests.domain.drafts import Draft, Owners
from services.intake.requests.domain.life import Check, Outcome, Request, Step
from services.intake.requests.store import Drafted, Filter, Place
from shared.contracts import ids, topics
from shared.contracts.envelope import Encoded, encode
from shared.contracts.events import ProposedChange
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Transient

ANY_VERSION: Final = -1
Versions: TypeAlias = Collection[int] | None
"""The versions that a call is meant for; None for whichever it is, `ANY_VERSION` among them too."""


class Checking(Protocol):
    """Asks the router about a change; see `services.intake.requests.router`."""

    async def check(self, change: ProposedChange) -> Check:
        """What it would change. Raises Refused with pointers below `/change` when it does not fit, Transient when that
        cannot be told."""


class Work(Protocol):
    """One transaction on the store; see `services.intake.requests.store.Work`."""

    async def add(self, request: Request, change: bytes | None, body: str) -> bool: ...

    async def request(self, request_id: str) -> Request | None: ...

    async def save(self, request: Request) -> None: ...

    async def attach(self, request_id: str, change: bytes | None) -> None: ...

    async def add_step(self, request_id: str, step: Step) -> None: ...

    async def comment(self, comment_id: str) -> Step | None: ...

    async def publish(self, events: Sequence[tuple[str, Encoded]]) -> None: ...


class Store(Protocol):
    """Where requests are kept; see `services.intake.requests.store.Store`."""

    def work(self) -> AbstractAsyncContextManager[Work]: ...

    async def request(self, request_id: str) -> tuple[Request, bytes | None, list[Step]] | None: ...

    async def drafted(self, request_id: str) -> Drafted | None: ...

    async def page(self, wanted: Filter, after: Place | None, limit: int) -> list[Request]: ...


class Told(NamedTuple):
    """A request with all there is to tell of it: its change as JSON, None without one, and what happened to it."""

    request: Request
    change: bytes | None
    steps: Sequence[Step]


class Requests:
    """Business requests. `owners` gives the operating model in force, None while there is none."""

    def __init__(
        self,
        store: Store,
        *,
        checking: Checking,
        owners: Callable[[], Owners | None],
        countries: Collection[str],
        clock: Clock,
        approvals_needed: int,
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._checking = checking
        self._owners = owners
        self._countries = countries
        self._clock = clock
        self._approvals_needed = approvals_needed
        self._wake = wake
        self._under_way: set[str] = set()

    async def draft(self, draft: Draft, client: Poster, key: str) -> Request:
        """The request that this call, or the same one before, began, as it was then.

        The change is checked at once; while the router is away it is kept unchecked. Raises Refused.
        """
        _require_regions(client, draft.regions)
        request_id = ids.derive("request", client.name, key)
        body = drafts.content_hash(draft)
        with self._alone(request_id):
            known = await self._store.drafted(request_id)
            if known is None:
                self._require_sound(draft)
                outcome = life.draft(
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
                known = await self._store.drafted(request_id)
        if known is None or known.body != body:
            raise _key_reused()
        return known.request

    async def change(self, request_id: str, text: bytes, client: Poster, versions: Versions) -> Request:
        """Have a draft say what a patch (JSON) says. A change that is attached anew is checked at once; while the
        router is away it is kept unchecked. Raises Refused."""
        before, attached, _ = await self.show(request_id, client)
        _require_regions(client, before.content.regions)
        _require_version(before, versions)
        life.require_draft(before)
        draft = drafts.patched(drafts.whole(before.content, _decoded(attached)), text)
        _require_regions(client, draft.regions)
        self._require_sound(draft)
        content, check = drafts.content(draft), before.check
        if content.change_hash != before.content.change_hash or check.verdict == life.UNCHECKED:
            check = await self._check(draft.change, keep_unchecked=True)
        async with self._store.work() as work:
            request = await self._locked(work, request_id, client)
            if request.version != before.version:
                raise _changed_meanwhile(request, versions)
            outcome = life.change(request, content, check, by=client.name, at=self._now())
            if outcome is not None:
                await work.save(outcome.request)
                await work.attach(request_id, _encoded(draft.change))
                await self._record(work, outcome)
        return self._done(request, outcome)

    async def submit(self, request_id: str, reason: str, client: Poster, versions: Versions) -> Request:
        """Put a draft up for decision, when it says all that is needed and the router finds that its change fits.

        Raises Refused, Transient while the router is away.
        """
        before, attached, _ = await self.show(request_id, client)
        _require_regions(client, before.content.regions)
        if life.is_done(before, life.SUBMIT, client.name, reason):
            return before
        _require_version(before, versions)
        life.require_draft(before)
        change = _decoded(attached)
        draft = drafts.whole(before.content, change)
        self._require_sound(draft, drafts.lacking(draft))
        check = await self._check(change, keep_unchecked=False)
        async with self._store.work() as work:
            request = await self._locked(work, request_id, client)
            if request.version != before.version and not life.is_done(request, life.SUBMIT, client.name, reason):
                raise _changed_meanwhile(request, versions)
            outcome = life.submit(
                request,
                change,
                check,
                by=client.name,
                reason=reason,
                at=self._now(),
                approvals_needed=self._approvals_needed,
            )
            if outcome is not None:
                await work.save(outcome.request)
                await self._record(work, outcome)
        return self._done(request, outcome)

    async def act(self, request_id: str, command: str, reason: str, client: Poster, versions: Versions) -> Request:
        """Do what a command other than `submit` says. Raises Refused."""
        async with self._store.work() as work:
            request = await self._locked(work, request_id, client)
            if not life.is_done(request, command, client.name, reason):
                _require_version(request, versions)
            outcome = life.act(request, command, by=client.name, reason=reason, at=self._now())
            if outcome is not None:
                await work.save(outcome.request)
                await self._record(work, outcome)
        return self._done(request, outcome)

    async def comment(self, request_id: str, text: str, client: Poster, key: str) -> Step:
        """The comment that this call, or the same one before, made. Raises Refused."""
        comment_id = ids.derive("comment", request_id, client.name, key)
        with self._alone(comment_id):
            async with self._store.work() as work:
                request = await self._locked(work, request_id, client)
                known = await work.comment(comment_id)
                if known is not None:
                    if known.text != text:
                        raise _key_reused()
                    return known
                outcome = life.comment(request, comment_id, text, by=client.name, at=self._now())
                await work.save(outcome.request)
                await self._record(work, outcome)
        self._wake()
        return outcome.step

    async def show(self, request_id: str, client: Poster) -> Told:
        """A request; raises Refused when there is none in a region of the client."""
        found = await self._store.request(request_id)
        if found is None or not _may_see(client, found[0]):
            raise _no_such(request_id)
        return Told(*found)

    async def page(self, wanted: Filter, after: Place | None, limit: int) -> list[Request]:
        """Requests, the newest first, from behind `after`."""
        return await self._store.page(wanted, after, limit)

    def _done(self, request: Request, outcome: Outcome | None) -> Request:
        """The request after what came of a call has been committed, None when nothing did."""
        if outcome is None:
            return request
        self._wake()
        return outcome.request

    @staticmethod
    async def _locked(work: Work, request_id: str, client: Poster) -> Request:
        request = await work.request(request_id)
        if request is None or not _may_see(client, request):
            raise _no_such(request_id)
        _require_regions(client, request.content.regions)
        return request

    async def _record(self, work: Work, outcome: Outcome) -> None:
        await work.add_step(outcome.request.request_id, outcome.step)
        await work.publish(
            [
                (topics.requests(event.attributes.region), encode(event.attributes, event.data))
                for event in outcome.events
            ]
        )

    async def _check(self, change: ProposedChange | None, *, keep_unchecked: bool) -> Check:
        if change is None:
            return Check()
        try:
            check = await self._checking.check(change)
        except Transient as error:
            if not keep_unchecked:
                raise
            check = Check(verdict=life.UNCHECKED, reason=str(error))
        return msgspec.structs.replace(check, checked_at=self._now())

    def _require_sound(self, draft: Draft, lacking: Sequence[Fault] = ()) -> None:
        owners = self._owners()
        if owners is None:
            raise Transient("No operating model is published.")
        found = [*drafts.faults(draft, owners, self._countries, self._clock.now().date()), *lacking]
        if found:
            raise drafts.unfit(found)

    def _now(self) -> str:
        return to_text(self._clock.now())

    @contextmanager
    def _alone(self, made: str) -> Iterator[None]:
        """Let one call at a time make something; raises Refused while another one does."""
        if made in self._under_way:
            detail = "a call with the same Idempotency-Key is under way; send the same again a moment later"
            raise Refused(409, "in-flight", "The same call is being made", [Fault("", detail)])
        self._under_way.add(made)
        try:
            yield
        finally:
            self._under_way.discard(made)


def _encoded(change: ProposedChange | None) -> bytes | None:
    return None if change is None else ids.canonical(change)


_decode_change = msgspec.json.Decoder(ProposedChange).decode


def _decoded(change: bytes | None) -> ProposedChange | None:
    return None if change is None else _decode_change(change)


def _may_see(client: Poster, request: Request) -> bool:
    return any(client.may_act_in(region) for region in request.content.regions)


def _require_regions(client: Poster, regions: Sequence[str]) -> None:
    allowed = ", ".join(sorted(client.regions)) or "no region"
    faults = [
        Fault(
            f"/regions/{index}",
            f"the request concerns region {region!r:.60}; client {client.name!r} may act in {allowed}",
        )
        for index, region in enumerate(regions)
        if not client.may_act_in(region)
    ]
    if faults:
        raise Refused(403, "region-not-allowed", "The key may not act in this region", faults)


def _require_version(request: Request, versions: Versions) -> None:
    if versions is not None and not {request.version, ANY_VERSION} & {*versions}:
        raise _stale(request)


def _changed_meanwhile(request: Request, versions: Versions) -> Refused:
    if versions is not None and ANY_VERSION not in versions:
        return _stale(request)
    detail = f"the request came to version {request.version} while this call was checked; look at it, and send it again"
    return Refused(409, "changed-meanwhile", "The request changed meanwhile", [Fault("", detail)])


def _stale(request: Request) -> Refused:
    detail = f'the request is at version "{request.version}": read it again, and make the change to that'
    return Refused(412, "precondition-failed", "The request has changed", [Fault("/header/if-match", detail)])


def _no_such(request_id: str) -> Refused:
    detail = f"no business request {request_id!r:.60} is known in a region of this key"
    return Refused(404, "not-found", "No such business request", [Fault("", detail)])


def _key_reused() -> Refused:
    detail = "this Idempotency-Key came with another body before; a new request needs a new key"
    return Refused(
        422, "idempotency-key-reused", "The key came with another body", [Fault("/header/idempotency-key", detail)]
    )
