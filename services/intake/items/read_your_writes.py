"""Lookups in the status projection with read-your-writes consistency.

The projection lags behind the topics. A lookup that finds nothing therefore waits until the projection has read all
records that the topics contained at the start of the call. It compares the ends of the topics with the positions in the
database, not clocks, which jump and differ; and not the group's committed offsets, which a restored database is behind.
Only then is "not found" certain. The time and the number of waiting calls are limited.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from services.intake.publishing.regions import Overloaded
from shared.kafka.offsets import EndOffsets
from shared.runtime.errors import Transient

_PATIENCE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1
_WAITING_CALLS: Final = 100

T = TypeVar("T")


class TopicEnds(Protocol):
    """The end offsets of a region's topics: `shared.kafka.offsets`."""

    async def ends(self, topics: Sequence[str]) -> EndOffsets: ...


class ProjectionPositions(Protocol):
    """The positions of the projections in the database: `shared.postgres.positions`."""

    async def has_passed(self, group: str, ends: EndOffsets) -> bool: ...


class ReadYourWrites:
    """Waits for the projections of the served regions, which are the keys of `offsets`."""

    def __init__(self, offsets: Mapping[str, TopicEnds], positions: ProjectionPositions) -> None:
        self._offsets = offsets
        self._positions = positions
        self._waiting = 0

    @property
    def regions(self) -> Collection[str]:
        """The served regions."""
        return self._offsets.keys()

    async def find(
        self,
        look: Callable[[], Awaitable[T | None]],
        *,
        topics: Callable[[str], Sequence[str]],
        regions: Collection[str],
        doubt: str,
    ) -> T | None:
        """The result of `look`; None when it is certain that nothing exists.

        `topics` gives the topics of a region that can contain the record. Raises Overloaded when too many
        calls wait, Transient with the message `doubt` when the projection is too far behind.
        """
        found = await look()
        if found is not None:
            return found
        if self._waiting >= _WAITING_CALLS:
            raise Overloaded
        self._waiting += 1
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._wait_for(look, topics, regions)
        except TimeoutError as error:
            raise Transient(doubt) from error
        finally:
            self._waiting -= 1

    async def _wait_for(
        self, look: Callable[[], Awaitable[T | None]], topics: Callable[[str], Sequence[str]], regions: Collection[str]
    ) -> T | None:
        ends = {region: await self._offsets[region].ends(topics(region)) for region in regions}
        while True:
            for region in [*ends]:
                if await self._positions.has_passed(projection_group(region), ends[region]):
                    del ends[region]
            found = await look()
            if found is not None or not ends:
                return found
            await asyncio.sleep(_LOOK_SECONDS)


def projection_group(region: str) -> str:
    """The consumer group of a region's status projection."""
    return f"piepowder-intake-{region}"
