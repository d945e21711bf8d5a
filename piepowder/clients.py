"""Administration of API clients and their keys. A key's text is printed once and stored nowhere."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from rich.console import RenderableType
from rich.text import Text

from piepowder import console_output
from piepowder.client import Api
from shared.contracts import ids
from shared.runtime.clock import SystemClock, from_text, to_text

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_SPAN: Final = re.compile(r"([1-9]\d{0,5})([mhd])")
_STYLES: Final = {"live": "green", "active": "green", "disabled": "red", "revoked": "dim", "expired": "dim"}
_clock = SystemClock()


def moment(text: str) -> str:
    """A time as RFC 3339 from `90d`, `12h` or `30m` from now, or from RFC 3339; raises ValueError for another text."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        return to_text(_clock.now() + timedelta(**{_UNITS[span[2]]: int(span[1])}))
    try:
        return to_text(from_text(text))
    except ValueError as error:
        raise ValueError(
            f"{text!r}: expected a span such as 7d, 12h or 30m, or a time such as 2027-01-31T00:00:00Z"
        ) from error


async def list_clients(api: Api, state: str | None) -> list[dict[str, Any]]:
    """All clients that the key may see, by name."""
    params: dict[str, str | int] = {"limit": 200} | ({} if state is None else {"state": state})
    return await api.get_all("intake", "/v1/clients", "clients", **params)


async def get(api: Api, name: str) -> dict[str, Any]:
    """A client and its keys."""
    found: dict[str, Any] = await api.get("intake", _path(name))
    return found


async def create(api: Api, body: Mapping[str, Any]) -> dict[str, Any]:
    """Create a client; returns the existing one if it is the same."""
    client: dict[str, Any] = (await api.post("intake", "/v1/clients", body)).json()["client"]
    return client


async def new_key(api: Api, name: str, *, expires_at: str | None, others_expire_at: str | None) -> dict[str, Any]:
    """Create a key. After a lost response, the repeated call creates no second key and fails."""
    body = {"expires_at": expires_at, "others_expire_at": others_expire_at}
    made: dict[str, Any] = (await api.post("intake", f"{_path(name)}/keys", body, key=ids.new_run())).json()
    return made


async def revoke(api: Api, name: str, key_id: str) -> dict[str, Any]:
    """Revoke a key immediately."""
    path = f"{_path(name)}/keys/{quote(key_id, safe='')}"
    client: dict[str, Any] = (await api.call("intake", "DELETE", path)).json()["client"]
    return client


async def set_state(api: Api, name: str, state: str) -> dict[str, Any]:
    """Disable a client, so that its keys are refused, or enable it again."""
    response = await api.call("intake", "PATCH", _path(name), json={"state": state})
    client: dict[str, Any] = response.json()["client"]
    return client


def listed(clients: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Clients as a table."""
    table = console_output.table("client", "state", "regions", "platforms", "scopes", "live keys", "last used")
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
    """A client with all details and its keys, to show."""
    limit = client["limit"]
    items = f", {limit['items_per_second']:g} items a second" if limit and limit["items_per_second"] else ""
    values = {
        "client": client["name"],
        "description": console_output.clean(client["description"]),
        "state": _state(client["state"]),
        "scopes": ", ".join(client["scopes"]),
        "regions": ", ".join(client["regions"]),
        "platforms": ", ".join(client["platforms"]),
        "limit": f"{limit['requests_per_second']:g} calls a second, {limit['burst']} at once{items}"
        if limit
        else "none",
        "changed": client["changed_at"],
    }
    keys = console_output.table("key", "state", "created", "expires", "revoked", "last used")
    for key in client["keys"]:
        times = [key[name] or "never" for name in ("created_at", "expires_at", "revoked_at", "last_used_at")]
        keys.add_row(key["key_id"], _state(key["state"]), *times)
    return [console_output.fields(values), "", keys]


def show_key(made: Mapping[str, Any]) -> None:
    """Write a new key's text to standard output, so that it can be piped, and everything else to standard error."""
    console_output.warn(f"Key {made['key_id']} of {made['client']}. It is shown only now and stored nowhere: save it")
    console_output.warn("where its owner finds it, and not in a shell's history, a ticket or a chat.")
    console_output.show(made["key"])
    if not made["in_force"]:
        console_output.warn("It is not accepted yet: Kafka has not delivered it to the services.")


def _state(state: str) -> Text:
    return Text(state, _STYLES.get(state, ""))


def _path(name: str) -> str:
    return f"/v1/clients/{quote(name, safe='')}"
