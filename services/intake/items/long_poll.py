"""Waiting for what becomes of items: one look for all who wait, ten times a second, and only while somebody waits.

So a thousand calls that wait cost what one costs, whichever process follows the topics, and nothing is told on the way
there that a connection could lose. Past a number of them a call does not wait: waiting is a preference (RFC 7240).
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from services.intake.items.domain.status import StatusFacts
from shared.runtime.errors import Transient

LONGEST: Final = 30
_LOOK_SECONDS: Final = 0.1
_WAITING_CALLS: Final = 1_000
_preferences = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+').findall  # a comma in a quoted string parts nothing
_is_wait = re.compile(r"\s*wait\s*(?:[=;]|$)", re.IGNORECASE).match
_seconds = re.compile(r'[^=;]*=\s*(?:([0-9]+)|"([0-9]+)")\s*(?:;|$)').match

Known: TypeAlias = Mapping[str, StatusFacts]
"""What is known of an item, by region."""


class StatusLookup(Protocol):
    """What is known of items; see `services.intake.items.store`."""

    async def of_items(self, item_ids: Sequence[str]) -> Mapping[str, Known]: ...


def preferred(prefer: str) -> int:
    """How many seconds a client would wait for its answer, by its `Prefer` field (RFC 7240, section 4.3); 0 if it would
    not, and `LONGEST` at most."""
    first = next(filter(_is_wait, _preferences(prefer)), "")
    found = _seconds(first)
    digits = (found[1] or found[2]).lstrip("0") if found else ""
    return min(LONGEST, int(digits[:3] or "0"))


class LongPoll:
    """All who wait in this process."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[asyncio.Future[None], Callable[[Known], bool]]] = {}
        self._count = 0
        self._looking: asyncio.Task[None] | None = None

    async def until(
        self, statuses: StatusLookup, item_id: str, is_enough: Callable[[Known], bool], seconds: float
    ) -> bool:
        """Wait until what is known of an item is enough, or for so long; False when too many wait already.

        Raises Transient when nobody can look.
        """
        if self._count >= _WAITING_CALLS:
            return False
        enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.setdefault(item_id, {})[enough] = is_enough
        self._count += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(statuses))
        try:
            async with asyncio.timeout(seconds):
                await enough
        except TimeoutError:
            pass
        finally:
            self._count -= 1
            del self._calls[item_id][enough]
            if not self._calls[item_id]:
                del self._calls[item_id]
        return True

    async def _look(self, statuses: StatusLookup) -> None:
        try:
            while self._calls:
                for item_id, known in (await statuses.of_items(list(self._calls))).items():
                    for call, is_enough in self._calls.get(item_id, {}).items():
                        if not call.done() and is_enough(known):
                            call.set_result(None)
                await asyncio.sleep(_LOOK_SECONDS)
        except Transient as error:
            for calls in self._calls.values():
                for call in calls:
                    if not call.done():
                        call.set_exception(error)
        finally:
            self._looking = None
