"""Takes an item back, as the upstream system that posted it would, and tells what came of it."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from deploy.local.errors import StackError
from piepowder.client import Api, Refused
from shared.runtime.clock import SystemClock

_UNDER_WAY: Final = ("submitted", "in_review")
_DECIDED: Final = ("approved", "rejected")
_LOOK_SECONDS: Final = 0.2
_PATIENCE: Final = 10.0
_clock = SystemClock()


class TakenBack(msgspec.Struct, frozen=True):
    """An item that was taken back; `regions` says by region where it stands."""

    subject: str
    regions: dict[str, str]


async def withdraw(api: Api, item_id: str, reason: str = "") -> TakenBack:
    """Take an item back in every region of it, and wait, bounded, until that has taken effect.

    Raises `StackError` when there is no such item.
    """
    path = f"/v1/items/{quote(item_id, safe='')}"
    try:
        receipt = (await api.call("intake", "DELETE", path, params={"reason": reason} if reason else {})).json()
    except Refused as refused:
        if refused.status == 404:
            raise StackError(f"{refused}", "Give an item's id, as the answer to its post has it.") from refused
        raise
    deadline = _clock.monotonic() + _PATIENCE
    while True:
        told: dict[str, Mapping[str, Any]] = (await api.get("intake", path))["regions"]
        states = {region: _state(told.get(region, {})) for region in receipt["regions"]}
        if not any(state in _UNDER_WAY for state in states.values()) or _clock.monotonic() > deadline:
            return TakenBack(receipt["subject"], states)
        await asyncio.sleep(_LOOK_SECONDS)


def _state(told: Mapping[str, Any]) -> str:
    state = str(told.get("status", "submitted"))
    return f"{state} before that, which stays" if state in _DECIDED else state
