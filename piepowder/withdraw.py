"""Withdrawal of an item, with its outcome in each region."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from piepowder.client import Api, ApiError
from shared.runtime.clock import SystemClock
from shared.runtime.user_errors import UserError

_UNFINISHED: Final = ("submitted", "in_review")
_DECIDED: Final = ("approved", "rejected")
_POLL_SECONDS: Final = 0.2
_PATIENCE: Final = 10.0
_clock = SystemClock()


class WithdrawnItem(msgspec.Struct, frozen=True):
    """A withdrawn item; `regions` maps a region to the item's state there."""

    subject: str
    regions: dict[str, str]


async def withdraw(api: Api, item_id: str, reason: str = "") -> WithdrawnItem:
    """Withdraw an item in all its regions and wait up to `_PATIENCE` seconds for the effect.

    Raises `UserError` when there is no such item.
    """
    path = f"/v1/items/{quote(item_id, safe='')}"
    try:
        receipt = (await api.call("intake", "DELETE", path, params={"reason": reason} if reason else {})).json()
    except ApiError as error:
        if error.status == 404:
            raise UserError(error.what, "Give an item's id from the response to its post.") from error
        raise
    deadline = _clock.monotonic() + _PATIENCE
    while True:
        found: dict[str, Mapping[str, Any]] = (await api.get("intake", path))["regions"]
        states = {region: _state(found.get(region, {})) for region in receipt["regions"]}
        if not any(state in _UNFINISHED for state in states.values()) or _clock.monotonic() > deadline:
            return WithdrawnItem(receipt["subject"], states)
        await asyncio.sleep(_POLL_SECONDS)


def _state(found: Mapping[str, Any]) -> str:
    state = str(found.get("status", "submitted"))
    return f"{state} before the withdrawal; the decision stays" if state in _DECIDED else state
