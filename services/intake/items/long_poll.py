"""Long polling for the status of items: one query for all waiting calls, ten times a second, while any call waits.

A thousand waiting calls cost about as much as one. Polling the database works with any process as the projection, and
needs no notification that could get lost. Beyond a limit, a call does not wait: waiting is only a preference (RFC
7240).
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from services.intake.items.domain.status import StatusFacts
from shared.runtime.errors import Transient

LONGEST: Final = 30
_POLL_SECONDS: Final = 0.1
_MAX_WAITING_CALLS: Final = 1_000
_preferences = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+').findall  # a comma in a quoted string does not separate
_is_wait = re.compile(r"\s*wait\s*(?:[=;]|$)", re.IGNORECASE).match
_seconds = re.compile(r'[^=;]*=\s*(?:([0-9]+)|"([0-9]+)")\s*(?:;|$)').match

Known: TypeAlias = Mapping[str, StatusFacts]
"""The facts about an item, by region."""


class StatusLookup(Protocol):
    """Reads the facts about items: `services.intake.items.store`."""

    async def of_items(self, item_ids: Sequence[str]) -> Mapping[str, Known]: ...


def preferred(prefer: str) -> int:
    """The seconds in a `Prefer: wait=<seconds>` field (RFC 7240, section 4.3): at most `LONGEST`, 0 without it."""
    first = next(filter(_is_wait, _preferences(prefer)), "")
    found = _seconds(first)
    digits = (found[1] or found[2]).lstrip("0") if found else ""
    return min(LONGEST, int(digits[:3] or "0"))


class LongPoll:
    """All waiting calls of this process."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[asyncio.Future[None], Callable[[Known], bool]]] = {}
        self._count = 0
        self._poller: asyncio.Task[None] | None = None

    async def until(
        self, statuses: StatusLookup, item_id: str, is_enough: Callable[[Known], bool], seconds: float
    ) -> bool:
        """Wait until `is_enough` is true for an item, or for `seconds`; False when too many calls wait already.

        Raises Transient when the database does not respond.
        """
        if self._count >= _MAX_WAITING_CALLS:
            return False
        enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.setdefault(item_id, {})[enough] = is_enough
        self._count += 1
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll(statuses))
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

    async def _poll(self, statuses: StatusLookup) -> None:
        try:
            while self._calls:
                for item_id, known in (await statuses.of_items(list(self._calls))).items():
                    for call, is_enough in self._calls.get(item_id, {}).items():
                        if not call.done() and is_enough(known):
                            call.set_result(None)
                await asyncio.sleep(_POLL_SECONDS)
        except Transient as error:
            for calls in self._calls.values():
                for call in calls:
                    if not call.done():
                        call.set_exception(error)
        finally:
            self._poller = None
