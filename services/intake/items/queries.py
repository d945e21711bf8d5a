"""What became of items: one, those of a subject, those with a reference, lists; in the regions of the key and for its
platforms alone.

It answers from the projection, and says how far that may be behind. A client may ask to wait for a decision.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.intake.items import long_poll
from services.intake.items.domain import posts
from services.intake.items.domain.status import Status, status, submitted_to
from services.intake.items.domain.status import platform as platform_of
from services.intake.items.handlers import forbidden_platform
from services.intake.items.long_poll import Known, LongPoll
from services.intake.items.query_reader import Query
from services.intake.items.store import ItemCursor, ItemFilter, ItemStatusStore
from services.intake.items.views import (
    ItemAnswer,
    ItemsAnswer,
    ItemView,
    ProjectionAnswer,
    SubjectAnswer,
    TotalsAnswer,
    item_answer,
    item_view,
)
from services.intake.problems import problem
from shared.auth.authenticator import Authenticator
from shared.auth.clients import ANY
from shared.auth.principal import Principal
from shared.contracts import envelope
from shared.http import encoded_bodies
from shared.http.http import Problem, json_response, not_ready
from shared.runtime.clock import Clock, from_text
from shared.runtime.errors import Transient
from shared.runtime.readiness import Readiness
from shared.validation.faults import Fault, InputRejected

KINDS: Final = ("product", "seller", "content")
READ: Final = "items:read"
_ENDS: Final = frozenset({Status.APPROVED, Status.REJECTED, Status.SUPERSEDED, Status.WITHDRAWN, Status.DEAD_LETTERED})


class Following:
    """The status side; `statuses` is None until the database is there."""

    def __init__(self, regions: list[str]) -> None:
        self.regions = regions
        self.statuses: ItemStatusStore | None = None


class Asking:
    """The routes that tell what became of items, in the regions of the key and for its platforms."""

    def __init__(self, following: Following, authenticator: Authenticator, readiness: Readiness, clock: Clock) -> None:
        self._following = following
        self._authenticator = authenticator
        self._readiness = readiness
        self._clock = clock
        self._waiting = LongPoll()

    async def item(self, request: Request) -> Response:
        """`GET /v1/items/{item_id}`."""
        client, statuses = self._allowed(request)
        given = request.path_params["item_id"]
        item_id = uuid(given)
        headers = {}
        seconds = long_poll.preferred(encoded_bodies.head(request).prefer)
        if item_id is not None and seconds and await self._wait(statuses, item_id, client, seconds):
            headers["Preference-Applied"] = f"wait={seconds}"
        followed = await statuses.handled_until()
        known = {} if item_id is None else await statuses.of_item(item_id)
        seen = [region for region in known if client.may_act_in(region)] if _may_know(known, client) else []
        lag = self._lag(followed, seen or self._following.regions)
        if item_id is None or not seen:
            raise not_known("item", f"item {given!r:.60}", lag)
        return json_response(item_answer(item_view(item_id, known, client), lag), headers=headers)

    async def items(self, request: Request) -> Response:
        """`GET /v1/items`."""
        client, statuses = self._allowed(request)
        query = Query(request, *PARAMETERS)
        reference = query.text("reference", 200)
        region = query.one_of("region", self._following.regions)
        platform = query.read("platform", _platform, "a platform's name")
        kind = query.one_of("kind", KINDS)
        at = query.one_of("status", list(Status))
        after, before = (query.read(name, from_text, "a time such as 2026-05-01T09:30:00Z") for name in _TIMES)
        limit, place = query.limit(), query.cursor(_place)
        _check(query)
        regions = [region] if region is not None else self._regions(client)
        if region is not None and not client.may_act_in(region):
            detail = f"client {client.name!r} may act in {', '.join(sorted(client.regions))}, not in {region!r}"
            fault = Fault("/query/region", detail)
            raise problem(InputRejected(403, "region-not-allowed", "The key may not act in this region", [fault]))
        if platform is not None and not client.may_act_for(platform):
            raise problem(forbidden_platform(client, platform, "/query/platform"))
        wanted = ItemFilter(
            regions,
            platforms=None if ANY in client.platforms else sorted(client.platforms),
            client=None if reference is None else client.name,
            reference=reference,
            status=None if at is None else Status(at),
            platform=platform,
            kind=kind,
            received_after=after,
            received_before=before,
            before=place,
        )
        followed = await statuses.handled_until()
        views, following = await self._page(statuses, wanted, limit, client)
        return json_response(ItemsAnswer(views, following, self._lag(followed, regions)))

    async def subject(self, request: Request) -> Response:
        """`GET /v1/subjects/{platform}/{kind}/{id}`."""
        client, statuses = self._allowed(request)
        query = Query(request, "limit", "cursor")
        limit, place = query.limit(), query.cursor(_place)
        _check(query)
        names = [request.path_params[name] for name in ("platform", "kind", "id")]
        subject = envelope.subject_of(*names)
        regions = self._regions(client)
        lag = self._lag(await statuses.handled_until(), regions)
        if not subject.isprintable() or not client.may_act_for(names[0]):
            raise not_known("subject", f"subject {subject!r:.300}", lag)
        wanted = ItemFilter(regions, subject=subject, before=place)
        views, following = await self._page(statuses, wanted, limit, client)
        if not views and place is None:
            raise not_known("subject", f"subject {subject!r:.300}", lag)
        return json_response(SubjectAnswer(subject, views, following, lag))

    async def totals(self, request: Request) -> Response:
        """`GET /v1/totals`."""
        client, statuses = self._allowed(request)
        if ANY not in client.platforms:
            own = ", ".join(sorted(client.platforms))
            detail = f"the totals are every platform's; client {client.name!r} may act for {own}"
            title = "The key may not act for this platform"
            raise problem(InputRejected(403, "platform-not-allowed", title, [Fault("", detail)]))
        regions = self._regions(client)
        lag = self._lag(await statuses.handled_until(), regions)
        totals = await statuses.totals()
        return json_response(TotalsAnswer({region: totals.get(region, {}) for region in regions}, lag))

    async def decided(self, client: Principal, item_id: str, seconds: int) -> ItemAnswer | None:
        """What is known of an item once it is decided, or after so long; None when the client may not ask, or nobody
        can tell."""
        statuses = self._following.statuses
        if statuses is None or READ not in client.scopes:
            return None
        try:
            if not await self._wait(statuses, item_id, client, seconds):
                return None
            lag = self._lag(await statuses.handled_until(), self._regions(client))
            known = await statuses.of_item(item_id)
        except Transient:
            return None
        return item_answer(item_view(item_id, known, client), lag) if _may_know(known, client) else None

    async def _wait(self, statuses: ItemStatusStore, item_id: str, client: Principal, seconds: int) -> bool:
        return await self._waiting.until(statuses, item_id, partial(_is_decided, client), seconds)

    async def _page(
        self, statuses: ItemStatusStore, wanted: ItemFilter, limit: int, client: Principal
    ) -> tuple[list[ItemView], str | None]:
        page = await statuses.page(wanted, limit)
        known = await statuses.of_items(page.item_ids) if page.item_ids else {}
        views = [item_view(item_id, facts, client) for item_id, facts in known.items()]
        return views, None if page.last is None else _cursor(page.last)

    def _regions(self, client: Principal) -> list[str]:
        return [region for region in self._following.regions if client.may_act_in(region)]

    def _allowed(self, request: Request) -> tuple[Principal, ItemStatusStore]:
        client = self._authenticator.principal(request, READ)
        if self._following.statuses is None:
            raise not_ready(self._readiness)
        return client, self._following.statuses

    def _lag(self, followed: Mapping[str, datetime], regions: Sequence[str]) -> ProjectionAnswer:
        return projection(followed, regions, self._clock)


def projection(followed: Mapping[str, datetime], regions: Sequence[str], clock: Clock) -> ProjectionAnswer:
    """How far the answer about these regions may be behind, which are `followed` until then; not known when one is not
    followed yet."""
    moments = [followed[region] for region in regions if region in followed]
    if not moments or len(moments) < len(regions):
        return ProjectionAnswer(None)
    return ProjectionAnswer(max(0.0, round((clock.now() - min(moments)).total_seconds(), 3)))


def not_known(what: str, which: str, behind: ProjectionAnswer) -> Problem:
    """404, which says how far behind the answer may be: what is not known yet may come."""
    lag = behind.lag_seconds
    late = (
        "Not all that was posted is followed yet: it may still come to be known."
        if lag is None
        else f"What was posted in the last {lag:g} s may be missing."
    )
    return Problem(
        404,
        "not-found",
        f"No such {what}",
        f"No {which} is known to this key, in its regions and for its platforms. {late}",
    )


def uuid(text: str) -> str | None:
    """The id in a text, None when it is none."""
    try:
        return str(UUID(text))
    except ValueError:
        return None


_TIMES: Final = ("received_after", "received_before")
PARAMETERS: Final = ("reference", "status", "region", "platform", "kind", *_TIMES, "limit", "cursor")


def _check(query: Query) -> None:
    try:
        query.check()
    except InputRejected as refused:
        raise problem(refused) from refused


def _platform(text: str) -> str:
    if not posts.is_platform(text):
        raise ValueError
    return text


def _may_know(known: Known, client: Principal) -> bool:
    return bool(known) and client.may_act_for(platform_of(known))


def _is_decided(client: Principal, known: Known) -> bool:
    """Whether an item's way has ended in every region that it went to and the client may see; one that it may not know
    is waited for as long as one that is not there."""
    regions = [region for region in submitted_to(known) if client.may_act_in(region) and _may_know(known, client)]
    return bool(regions) and all(region in known and status(known[region]) in _ENDS for region in regions)


def _cursor(place: ItemCursor) -> str:
    return base64.urlsafe_b64encode(f"{place.received_at.isoformat()} {place.item_id}".encode()).decode().rstrip("=")


def _place(cursor: str) -> ItemCursor:
    """Where a page ended; raises ValueError for what is no cursor of ours."""
    text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    received_at, _, item_id = text.partition(" ")
    return ItemCursor(from_text(received_at), str(UUID(item_id)))
