"""Looking something up in the status projection, which may be behind what was posted or decided a moment ago.

What it does not know is waited for until it has read everything that stood in the topics when the call came, by Kafka's
offsets: clocks jump and disagree. Only then is "there is none" true. Waiting is bounded, and so are those who wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from services.intake.handlers import Overloaded, projection_group
from shared.kafka.offsets import EndOffsets
from shared.runtime.errors import Transient

_PATIENCE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1
_WAITING_CALLS: Final = 100

T = TypeVar("T")


class Reaching(Protocol):
    """How far a region's projection has read; see `shared.kafka.offsets`."""

    async def ends(self, topics: Sequence[str]) -> EndOffsets: ...

    async def has_passed(self, group: str, ends: EndOffsets) -> bool: ...


class CatchingUp:
    """Waits for the projections of the regions in `reaches`, which are those that are served."""

    def __init__(self, reaches: Mapping[str, Reaching]) -> None:
        self._reaches = reaches
        self._waiting = 0

    @property
    def regions(self) -> Collection[str]:
        """The regions that are served."""
        return self._reaches.keys()

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
        ends = {region: await self._reaches[region].ends(topics(region)) for region in regions}
        while True:
            for region in [*ends]:
                if await self._reaches[region].has_passed(projection_group(region), ends[region]):
                    del ends[region]
            found = await look()
            if found is not None or not ends:
                return found
            await asyncio.sleep(_LOOK_SECONDS)
