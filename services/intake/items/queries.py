"""Queries of items: one item, the versions of a subject, lists and totals, in the regions and platforms of the caller.

They read the status projection, and every response contains its lag. A caller can wait for a decision (`long_poll`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import UUID

from services.intake.errors import NOT_FOUND, PLATFORM_NOT_ALLOWED, require_platform, require_served_region
from services.intake.items import long_poll
from services.intake.items.domain.status import Status, StatusFacts, status, submitted_to
from services.intake.items.domain.status import platform as platform_of
from services.intake.items.long_poll import LongPoll
from services.intake.items.store import ItemCursor, ItemFilter, ItemStatusStore
from services.intake.items.views import (
    ItemStatusView,
    ItemsView,
    ItemTotalsView,
    ItemView,
    ProjectionView,
    SubjectVersionsView,
    WaitingEntryView,
    WaitingView,
    item_fields,
)
from services.intake.items.waiting import WaitingStore
from shared.auth.clients import ANY
from shared.auth.principal import Principal
from shared.contracts import envelope
from shared.contracts.ids import uuid_of
from shared.http.queries import encode_cursor
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Transient
from shared.validation.faults import InputRejected

READ: Final = "items:read"
READ_ALL: Final = "audit:read"
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
_FINAL: Final = frozenset(
    {
        Status.APPROVED,
        Status.REJECTED,
        Status.SUPERSEDED,
        Status.WITHDRAWN,
        Status.DEAD_LETTERED,
        Status.DISCARDED,
    }
)


class ItemQueries:
    """The queries; `regions` are the served regions. All methods raise Transient when the database does not respond."""

    def __init__(self, statuses: ItemStatusStore, waiting: WaitingStore, regions: Sequence[str], clock: Clock) -> None:
        self._statuses = statuses
        self._waiting = waiting
        self._regions = regions
        self._clock = clock
        self._long_poll = LongPoll()

    async def item(self, client: Principal, id_text: str, seconds: int) -> tuple[ItemStatusView, bool]:
        """An item, after a wait of up to `seconds`, and True if the call waited. Raises InputRejected (404)."""
        item_id = uuid_of(id_text)
        waited = item_id is not None and seconds > 0 and await self._wait(client, item_id, seconds)
        handled_until = await self._statuses.handled_until()
        facts_by_region = {} if item_id is None else await self._statuses.of_item(item_id)
        seen = (
            [region for region in facts_by_region if client.may_act_in(region)]
            if _may_see(facts_by_region, client)
            else []
        )
        lag = self.lag(handled_until, seen or self._regions)
        if item_id is None or not seen:
            raise not_found(f"item {id_text!r:.60}", lag)
        return ItemStatusView(**item_fields(item_id, facts_by_region, client), projection=lag), waited

    async def decided(self, client: Principal, item_id: str, seconds: int) -> ItemStatusView | None:
        """An item after a wait of up to `seconds`; None if the caller may not read it, or it cannot be read."""
        if READ not in client.scopes:
            return None
        try:
            if not await self._wait(client, item_id, seconds):
                return None
            lag = self.lag(await self._statuses.handled_until(), self.regions(client))
            facts_by_region = await self._statuses.of_item(item_id)
        except Transient:
            return None
        if not _may_see(facts_by_region, client):
            return None
        return ItemStatusView(**item_fields(item_id, facts_by_region, client), projection=lag)

    async def page(self, client: Principal, wanted: ItemFilter, limit: int) -> ItemsView:
        """A page of a list. Raises InputRejected for a region or platform that the caller may not act for.

        The method sets the regions and platforms of the caller in `wanted`.
        """
        for region in wanted.regions:
            require_served_region(client, region, self._regions)
        if wanted.platform is not None:
            require_platform(client, wanted.platform, "/query/platform")
        wanted = wanted._replace(
            regions=wanted.regions or self.regions(client),
            platforms=None if ANY in client.platforms else sorted(client.platforms),
            client=None if wanted.reference is None else client.name,
        )
        lag = self.lag(await self._statuses.handled_until(), wanted.regions)
        items, following = await self._page(client, wanted, limit)
        return ItemsView(items=items, next=following, projection=lag)

    async def versions(
        self, client: Principal, subject: tuple[str, str, str], before: ItemCursor | None, limit: int
    ) -> SubjectVersionsView:
        """A page of the versions of a subject (platform, kind, id). Raises InputRejected (404)."""
        name = envelope.subject_of(*subject)
        regions = self.regions(client)
        lag = self.lag(await self._statuses.handled_until(), regions)
        if not name.isprintable() or not client.may_act_for(subject[0]):
            raise not_found(f"subject {name!r:.300}", lag)
        versions, following = await self._page(client, ItemFilter(regions, subject=name, before=before), limit)
        if not versions and before is None:
            raise not_found(f"subject {name!r:.300}", lag)
        return SubjectVersionsView(subject=name, versions=versions, next=following, projection=lag)

    async def waiting(
        self, client: Principal, region: str, before: datetime | None, after: ItemCursor | None, limit: int
    ) -> WaitingView:
        """A page of what has no effect yet in a region. Raises InputRejected for a region or caller without rights."""
        require_served_region(client, region, self._regions)
        _require_all_platforms(client, "the list includes every platform")
        lag = self.lag(await self._statuses.handled_until(), [region])
        start = after or ItemCursor(_EARLIEST, str(UUID(int=0)))
        found = await self._waiting.page(region, before or _LATEST, start, limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        entries = [
            WaitingEntryView(type=one.type, id=one.id, subject=one.subject, since=to_text(one.since))
            for one in found[:limit]
        ]
        following = None if last is None else encode_cursor(ItemCursor(last.since, last.id))
        return WaitingView(waiting=entries, next=following, projection=lag)

    async def totals(self, client: Principal) -> ItemTotalsView:
        """The totals in the caller's regions. Raises InputRejected for a caller that is limited to platforms."""
        _require_all_platforms(client, "totals include every platform")
        regions = self.regions(client)
        lag = self.lag(await self._statuses.handled_until(), regions)
        totals = await self._statuses.totals()
        return ItemTotalsView(regions={region: totals.get(region, {}) for region in regions}, projection=lag)

    async def handled_until(self) -> dict[str, datetime]:
        """See `ItemStatusStore.handled_until`."""
        return await self._statuses.handled_until()

    def lag(self, handled_until: Mapping[str, datetime], regions: Sequence[str]) -> ProjectionView:
        """The lag of the slowest of `regions` (if empty: all served regions); null while the lag of one is unknown."""
        regions = regions or self._regions
        times = [handled_until[region] for region in regions if region in handled_until]
        if not times or len(times) < len(regions):
            return ProjectionView(lag_seconds=None)
        return ProjectionView(lag_seconds=max(0.0, round((self._clock.now() - min(times)).total_seconds(), 3)))

    def regions(self, client: Principal) -> list[str]:
        """The served regions that the caller may act in."""
        return [region for region in self._regions if client.may_act_in(region)]

    async def _wait(self, client: Principal, item_id: str, seconds: int) -> bool:
        return await self._long_poll.until(self._statuses, item_id, partial(_is_decided, client), seconds)

    async def _page(self, client: Principal, wanted: ItemFilter, limit: int) -> tuple[list[ItemView], str | None]:
        page = await self._statuses.page(wanted, limit)
        facts_by_item = await self._statuses.of_items(page.item_ids) if page.item_ids else {}
        views = [ItemView(**item_fields(item_id, facts, client)) for item_id, facts in facts_by_item.items()]
        return views, encode_cursor(page.last)


def wait_seconds(prefer: Sequence[str]) -> int:
    """The seconds that a caller prefers to wait, from its `Prefer` header fields."""
    return long_poll.preferred(",".join(prefer))


def not_found(which: str, lag: ProjectionView) -> InputRejected:
    """404, with the lag of the projection: the object may exist although it is not known yet."""
    recent = (
        "The status does not include all submissions yet."
        if lag.lag_seconds is None
        else f"Submissions of the last {lag.lag_seconds:g} s may be missing."
    )
    return NOT_FOUND.with_message(f"No {which} is known to this key, in its regions and for its platforms. {recent}")


def _may_see(facts_by_region: Mapping[str, StatusFacts], client: Principal) -> bool:
    return bool(facts_by_region) and client.may_act_for(platform_of(facts_by_region))


def _is_decided(client: Principal, facts_by_region: Mapping[str, StatusFacts]) -> bool:
    """True if the item has a final status in each of its regions that the caller sees.

    A call for an item that the caller may not see waits as long as a call for an unknown item.
    """
    regions = [
        region
        for region in submitted_to(facts_by_region)
        if client.may_act_in(region) and _may_see(facts_by_region, client)
    ]
    return bool(regions) and all(
        region in facts_by_region and status(facts_by_region[region]) in _FINAL for region in regions
    )


def _require_all_platforms(client: Principal, why: str) -> None:
    if ANY not in client.platforms:
        own = ", ".join(sorted(client.platforms))
        raise PLATFORM_NOT_ALLOWED(f"{why}; client {client.name!r} may act for {own}")
