"""Looking something up in the status projection, which may be behind what was posted or decided a moment ago.

What it does not know is waited for until it has read everything that stood in the topics when the call came, by Kafka's
offsets: clocks jump and disagree. Only then is "there is none" true. Waiting is bounded, and so are those who wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from services.intake.publishing.regions import Overloaded
from shared.kafka.offsets import Ends
from shared.runtime.errors import Transient

_PATIENCE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1
_WAITING_CALLS: Final = 100

T = TypeVar("T")


class ProjectionOffsets(Protocol):
    """How far a region's projection has read; see `shared.kafka.offsets`."""

    async def ends(self, topics: Sequence[str]) -> Ends: ...

    async def has_passed(self, group: str, ends: Ends) -> bool: ...


class ReadYourWrites:
    """Waits for the projections of the regions in `reaches`, which are those that are served."""

    def __init__(self, offsets: Mapping[str, ProjectionOffsets]) -> None:
        self._offsets = offsets
        self._waiting = 0

    @property
    def regions(self) -> Collection[str]:
        """The regions that are served."""
        return self._offsets.keys()

    async def find(
        self,
        look: Callable[[], Awaitable[T | None]],
        *,
        topics: Callable[[str], Sequence[str]],
        regions: Collection[str],
        doubt: str,
    ) -> T | None:
        """What `look` finds; None when it is certain that there is nothing to be found.

        `topics` are those of a region where it may still stand. Raises Overloaded when too many wait, Transient with
        the sentence `doubt` when the projection is too far behind to tell.
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
        self,
        look: Callable[[], Awaitable[T | None]],
        topics: Callable[[str], Sequence[str]],
        regions: Collection[str],
    ) -> T | None:
        ends = {region: await self._offsets[region].ends(topics(region)) for region in regions}
        while True:
            for region in [*ends]:
                if await self._offsets[region].has_passed(projection_group(region), ends[region]):
                    del ends[region]
            found = await look()
            if found is not None or not ends:
                return found
            await asyncio.sleep(_LOOK_SECONDS)


def projection_group(region: str) -> str:
    """The consumer group that follows a region."""
    return f"piepowder-intake-{region}"
