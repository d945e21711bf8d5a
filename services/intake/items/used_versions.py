"""Finds posts whose version or reference was used for other content before, so that their responses say `conflict`.

A post is accepted without this knowledge, and it is not valid evidence of the absence of a conflict: the status is. It
has two sources. The contents that this process accepted last, in memory, cover the time until the status projection
knows them. The projection has all older ones. Its look-ups run while Kafka acknowledges the posts, and posts that
arrive during one look-up share the next one; most find nothing and cost one descent of an index. A response waits for
its look-up for at most 50 ms longer than for Kafka. Without the database, only the memory is used.

An item without a version number has the hash of its content in its id, so it is not looked up.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from services.intake.items.handlers import PreparedItem
from services.intake.publishing.regions import Publishable
from shared.auth.principal import Principal
from shared.runtime.errors import PiepowderError

log = logging.getLogger(__name__)

_RECENT: Final = 20_000  # more than the projection is behind under full load
_PATIENCE_SECONDS: Final = 0.05
_MAX_LOOKED_UP: Final = 10_000

KnownHashes: TypeAlias = Mapping[str, Mapping[str, str]]
"""The hash of the first content of an item in each region, by item and region."""
LookUp: TypeAlias = asyncio.Future[KnownHashes]


class HashLookup(Protocol):
    """Reads the hashes of items: `services.intake.items.store`."""

    async def content_hashes(self, item_ids: Sequence[str]) -> KnownHashes: ...


class RecentContents:
    """The contents that this process accepted last, by the id of their item, notice or appeal."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, tuple[str, ...]]] = {}

    def note(self, id_: str, content_hash: str, accepted: Publishable, client: Principal) -> bool:
        """Remember the first content of an id; True if it is another one, in a region that the client may see."""
        known = self._known.get(id_)
        if known is None:
            self._known[id_] = content_hash, accepted.regions
            if len(self._known) > _RECENT:
                del self._known[next(iter(self._known))]
            return False
        return known[0] != content_hash and any(map(client.may_act_in, known[1]))


class UsedVersions:
    """Finds items with a used version number and other content. `hashes` is set while the database is available."""

    def __init__(self) -> None:
        self.hashes: HashLookup | None = None
        self._recent = RecentContents()
        self._wanted: set[str] = set()
        self._next: LookUp | None = None
        self._running: asyncio.Task[None] | None = None

    def look(self, items: Sequence[PreparedItem]) -> LookUp | None:
        """Start to look up the items; None if there is nothing to look up, or too much already."""
        wanted = [item.item_id for item in items if item.version is not None]
        if not wanted or self.hashes is None or len(self._wanted) >= _MAX_LOOKED_UP:
            return None
        self._wanted.update(wanted)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._running is None:
            self._running = asyncio.create_task(self._look_up())
        return self._next

    async def conflicts(
        self, items: Sequence[PreparedItem], client: Principal, looked_up: LookUp | None
    ) -> Collection[int]:
        """The indexes of those accepted items whose version was used for other content."""
        found = {
            index
            for index, item in enumerate(items)
            if item.version is not None and self._recent.note(item.item_id, item.content_hash, item, client)
        }
        if looked_up is not None:
            if not looked_up.done():
                await asyncio.wait([looked_up], timeout=_PATIENCE_SECONDS)
            if looked_up.done() and (known := looked_up.result()):
                found.update(index for index, item in enumerate(items) if _differs(item, known, client))
        return found

    async def _look_up(self) -> None:
        try:
            while (done := self._next) is not None:
                ids, self._wanted, self._next = list(self._wanted), set(), None
                known: KnownHashes = {}
                try:
                    if self.hashes is not None:
                        known = await self.hashes.content_hashes(ids)
                except PiepowderError as error:  # the posts are accepted without it; readiness reports the database
                    log.debug("used versions are not known", extra={"error": str(error)})
                finally:
                    done.set_result(known)
        finally:
            self._running = None


def _differs(item: PreparedItem, known: KnownHashes, client: Principal) -> bool:
    by_region = known.get(item.item_id)
    return by_region is not None and any(
        content_hash != item.content_hash and client.may_act_in(region) for region, content_hash in by_region.items()
    )
