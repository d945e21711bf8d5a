"""API clients and their keys. A key's text is printed once and stored nowhere."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.console import RenderableType
from rich.text import Text

from piepowder import console_output
from piepowder.client import Api
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped
from shared.contracts import ids
from shared.runtime.clock import SystemClock, from_text, to_text
from shared.runtime.user_errors import UserError

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_SPAN: Final = re.compile(r"([1-9]\d{0,5})([mhd])")
_STYLES: Final = {"live": "green", "active": "green", "disabled": "red", "revoked": "dim", "expired": "dim"}
_OPTIONS: Final = {
    "/name": "NAME",
    "/scopes": "--scope",
    "/regions": "--region",
    "/platforms": "--platform",
    "/description": "--description",
    "/limit/requests_per_second": "--rate",
    "/limit/burst": "--burst",
    "/limit/items_per_second": "--items",
    "/expires_at": "--expires",
    "/others_expire_at": "--keep-old",
}
"""The option of each field."""
_clock = SystemClock()

app = options.new_app("clients", "API clients: their keys, scopes, regions, platforms and limits.")


def moment(text: str) -> str:
    """A time as RFC 3339, from a span after now (`90d`, `12h`, `30m`) or from RFC 3339. Raises ValueError."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        return to_text(_clock.now() + timedelta(**{_UNITS[span[2]]: int(span[1])}))
    try:
        return to_text(from_text(text))
    except ValueError as error:
        raise ValueError(
            f"{text!r}: expected a span such as 7d, 12h or 30m, or a time such as 2027-01-31T00:00:00Z"
        ) from error


def _moment(text: str | None) -> str | None:
    try:
        return None if text is None else moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that `clients list` shows")]
ExpiresIn = Annotated[
    str | None,
    typer.Option("--expires", callback=_moment, help="Expiry of the key: 90d, 12h, or RFC 3339; by default never"),
]


@app.command("list")
@grouped
def list_clients(
    connection: ApiConnection,
    state: Annotated[str | None, typer.Option(help="active or disabled; by default both")] = None,
) -> None:
    """List the clients, their live keys, and the last use of a key."""
    params: dict[str, str | int] = {"limit": 200} | ({} if state is None else {"state": state})
    found = connection.run(lambda api: api.get_all("intake", "/v1/clients", "clients", **params))
    console_output.console.print(_table(found))


@app.command()
@grouped
def show(connection: ApiConnection, name: Name) -> None:
    """Show a client and its keys."""
    _show(connection.run(lambda api: api.get("intake", _path(name))))


@app.command()
@grouped
def create(
    connection: ApiConnection,
    name: Annotated[str, typer.Argument(help="1 to 63 of a-z, 0-9 and '-', the first a letter")],
    *,
    scope: Annotated[list[str], typer.Option(help="A scope, such as items:write; may be repeated")],
    region: Annotated[list[str], typer.Option(help="A region; '*' is every region; may be repeated")],
    platform: Annotated[
        list[str],
        typer.Option(
            help="A platform of items, notices and appeals; '*' is every platform, which all other scopes require;"
            " may be repeated"
        ),
    ],
    description: Annotated[str, typer.Option(help="A description for people")] = "",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Calls a second, on average; by default no limit")
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Calls at once; by default twice the rate")] = None,
    items: Annotated[float, typer.Option(min=0, help="Items a second, on average; 0: no separate limit")] = 0.0,
    expires: ExpiresIn = None,
) -> None:
    """Create a client and its first key, which is shown only now.

    For a client that exists and has a key, `clients rotate` creates another one.
    """
    if rate is None and (burst is not None or items):
        raise typer.BadParameter("--burst and --items require --rate.")
    limit = None
    if rate is not None:
        limit = {"requests_per_second": rate, "burst": burst or max(1, round(2 * rate)), "items_per_second": items}
    body = {
        "name": name,
        "description": description,
        "scopes": scope,
        "regions": region,
        "platforms": platform,
        "limit": limit,
    }

    async def make(api: Api) -> dict[str, Any]:
        client = (await api.call("intake", "POST", "/v1/clients", json=body)).json()["client"]
        _require_no_key(client)  # an interrupted command is repeated to create the first key
        return await _new_key(api, name, expires_at=expires, others_expire_at=None)

    with options.named_faults(_OPTIONS):
        _show_key(connection.run(make))


@app.command()
@grouped
def rotate(
    connection: ApiConnection,
    name: Name,
    *,
    expires: ExpiresIn = None,
    keep_old: Annotated[
        str | None,
        typer.Option(callback=_moment, help="How long the other key stays valid: 7d; by default until it is revoked"),
    ] = None,
) -> None:
    """Create another key of a client, which is shown only now; the present key stays valid."""
    with options.named_faults(_OPTIONS):
        _show_key(connection.run(lambda api: _new_key(api, name, expires_at=expires, others_expire_at=keep_old)))


@app.command()
@grouped
def revoke(
    connection: ApiConnection,
    name: Name,
    key: Annotated[
        str, typer.Argument(metavar="KEY_ID", help="The id that `clients show` shows; never the key itself")
    ],
) -> None:
    """Revoke a key immediately, in all services."""
    if key.startswith("pp_"):
        raise typer.BadParameter(
            "that is the key itself, which must not be in a command line; give its id.", param_hint="KEY_ID"
        )
    _show_changed(connection, name, "DELETE", f"/keys/{quote(key, safe='')}")


@app.command()
@grouped
def disable(connection: ApiConnection, name: Name) -> None:
    """Reject all keys of a client until it is enabled again."""
    _show_changed(connection, name, "PATCH", json={"state": "disabled"})


@app.command()
@grouped
def enable(connection: ApiConnection, name: Name) -> None:
    """Accept the live keys of a disabled client again."""
    _show_changed(connection, name, "PATCH", json={"state": "active"})


def _show_changed(connection: ApiConnection, name: str, method: str, path: str = "", **request: Any) -> None:
    response = connection.run(lambda api: api.call("intake", method, _path(name) + path, **request))
    _show(response.json()["client"])


def _require_no_key(client: Mapping[str, Any]) -> None:
    if keys := [f"{key['key_id']} ({key['state']})" for key in client["keys"]]:
        raise UserError(
            f"The client {client['name']} exists, with the keys {', '.join(keys)}. No other key was created.",
            f"To create another key, use `piepowder clients rotate {client['name']}`.",
        )


async def _new_key(api: Api, name: str, *, expires_at: str | None, others_expire_at: str | None) -> dict[str, Any]:
    """Create a key. After a lost response, the repeated call creates no second key and fails."""
    body = {"expires_at": expires_at, "others_expire_at": others_expire_at}
    return dict(await api.post("intake", f"{_path(name)}/keys", body, key=ids.new_run()))


def _table(clients: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = console_output.table("client", "state", "regions", "platforms", "scopes", "live keys", "last used")
    for client in clients:
        live = [key["key_id"] for key in client["keys"] if key["state"] == "live"]
        used = max((key["last_used_at"] for key in client["keys"] if key["last_used_at"]), default="never")
        lists = [", ".join(client[name]) for name in ("regions", "platforms", "scopes")]
        table.add_row(client["name"], _state(client["state"]), *lists, ", ".join(live) or "none", used)
    return table


def _show(client: Mapping[str, Any]) -> None:
    """Show a client with all details and its keys."""
    limit = client["limit"]
    items = f", {limit['items_per_second']:g} items a second" if limit and limit["items_per_second"] else ""
    calls = f"{limit['requests_per_second']:g} calls a second, {limit['burst']} at once{items}" if limit else "none"
    values = {
        "client": client["name"],
        "description": console_output.clean(client["description"]),
        "state": _state(client["state"]),
        **{name: ", ".join(client[name]) for name in ("scopes", "regions", "platforms")},
        "limit": calls,
        "changed": client["changed_at"],
    }
    keys = console_output.table("key", "state", "created", "expires", "revoked", "last used")
    for key in client["keys"]:
        times = [key[name] or "never" for name in ("created_at", "expires_at", "revoked_at", "last_used_at")]
        keys.add_row(key["key_id"], _state(key["state"]), *times)
    for part in (console_output.fields(values), "", keys):
        console_output.console.print(part)


def _show_key(made: Mapping[str, Any]) -> None:
    """Write a new key's text to standard output, so that it can be piped, and everything else to standard error."""
    console_output.warn(f"Key {made['key_id']} of {made['client']}. It is shown only now and stored nowhere.")
    console_output.warn("Save it where its owner finds it, and not in a shell's history, a ticket or a chat.")
    console_output.show(made["key"])
    if not made["in_force"]:
        console_output.warn("It is not accepted yet: Kafka has not delivered it to the services.")


def _state(state: str) -> Text:
    return Text(state, _STYLES.get(state, ""))


def _path(name: str) -> str:
    return f"/v1/clients/{quote(name, safe='')}"
