"""Clients and their keys, as whoever administers them sees them. A key's text is printed once and kept nowhere."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from rich.console import RenderableType
from rich.text import Text

from piepowder import screen
from piepowder.client import Api
from shared.contracts import ids
from shared.runtime.clock import SystemClock, from_text, to_text

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_SPAN: Final = re.compile(r"([1-9]\d{0,5})([mhd])")
_STYLES: Final = {"live": "green", "active": "green", "disabled": "red", "revoked": "dim", "expired": "dim"}
_clock = SystemClock()


def moment(text: str) -> str:
    """The time that a person means: `90d`, `12h` or `30m` from now, or RFC 3339; raises ValueError for another text."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        return to_text(_clock.now() + timedelta(**{_UNITS[span[2]]: int(span[1])}))
    try:
        return to_text(from_text(text))
    except ValueError as error:
        raise ValueError(
            f"{text!r}: expected a span such as 7d, 12h or 30m, or a time such as 2027-01-31T00:00:00Z"
        ) from error


async def every(api: Api, state: str | None) -> list[dict[str, Any]]:
    """All clients that the key may see, by name."""
    found: list[dict[str, Any]] = []
    wanted: dict[str, str | int] = {"limit": 200} | ({} if state is None else {"state": state})
    cursor: str | None = ""
    while cursor is not None:
        page = await api.get("intake", "/v1/clients", cursor=cursor, **wanted)
        found += page["clients"]
        cursor = page["next"]
    return found


async def one(api: Api, name: str) -> dict[str, Any]:
    """A client and its keys."""
    found: dict[str, Any] = await api.get("intake", _path(name))
    return found


async def create(api: Api, body: Mapping[str, Any]) -> dict[str, Any]:
    """Make a client, or find the same one."""
    client: dict[str, Any] = (await api.post("intake", "/v1/clients", body)).json()["client"]
    return client


async def new_key(api: Api, name: str, *, expires_at: str | None, others_expire_at: str | None) -> dict[str, Any]:
    """Make a key of a client; a lost answer does not make a second one, and says so."""
    body = {"expires_at": expires_at, "others_expire_at": others_expire_at}
    made: dict[str, Any] = (await api.post("intake", f"{_path(name)}/keys", body, key=ids.new_run())).json()
    return made


async def revoke(api: Api, name: str, key_id: str) -> dict[str, Any]:
    """End a key at once."""
    path = f"{_path(name)}/keys/{quote(key_id, safe='')}"
    client: dict[str, Any] = (await api.call("intake", "DELETE", path)).json()["client"]
    return client


async def set_state(api: Api, name: str, state: str) -> dict[str, Any]:
    """End all of a client's keys for as long as it is disabled, or let them open again."""
    answer = await api.call("intake", "PATCH", _path(name), json={"state": state})
    client: dict[str, Any] = answer.json()["client"]
    return client


def listed(clients: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Clients, one a line."""
    table = screen.table("client", "state", "regions", "platforms", "scopes", "living keys", "last used")
    for client in clients:
        live = [key["key_id"] for key in client["keys"] if key["state"] == "live"]
        used = max((key["last_used_at"] for key in client["keys"] if key["last_used_at"]), default="never")
        table.add_row(
            client["name"],
            _state(client["state"]),
            ", ".join(client["regions"]),
            ", ".join(client["platforms"]),
            ", ".join(client["scopes"]),
            ", ".join(live) or "none",
            used,
        )
    return table


def shown(client: Mapping[str, Any]) -> list[RenderableType]:
    """A client whole, and its keys."""
    limit = client["limit"]
    items = f", {limit['items_per_second']:g} items a second" if limit and limit["items_per_second"] else ""
    facts = {
        "client": client["name"],
        "description": screen.clean(client["description"]),
        "state": _state(client["state"]),
        "scopes": ", ".join(client["scopes"]),
        "regions": ", ".join(client["regions"]),
        "platforms": ", ".join(client["platforms"]),
        "limit": f"{limit['requests_per_second']:g} calls a second, {limit['burst']} at once{items}"
        if limit
        else "none",
        "changed": client["changed_at"],
    }
    keys = screen.table("key", "state", "created", "expires", "revoked", "last used")
    for key in client["keys"]:
        times = [key[name] or "never" for name in ("created_at", "expires_at", "revoked_at", "last_used_at")]
        keys.add_row(key["key_id"], _state(key["state"]), *times)
    return [screen.facts(facts), "", keys]


def show_key(made: Mapping[str, Any]) -> None:
    """A new key: its text on standard output, all else on standard error, so that it may be piped where it is kept."""
    screen.warn(f"Key {made['key_id']} of {made['client']}. It is shown this once and kept nowhere: put it where its")
    screen.warn("owner finds it, and not into a shell's history, a ticket or a chat.")
    screen.say(made["key"])
    if not made["in_force"]:
        screen.warn("It does not open anything yet: Kafka has not told the services of it.")


def _state(state: str) -> Text:
    return Text(state, _STYLES.get(state, ""))


def _path(name: str) -> str:
    return f"/v1/clients/{quote(name, safe='')}"
