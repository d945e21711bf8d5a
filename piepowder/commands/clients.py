"""API clients and their keys."""

from typing import Annotated, Any

import typer

from piepowder import clients, console_output
from piepowder.client import Api
from piepowder.commands import options
from piepowder.commands.options import Connection, connected

app = options.new_app("clients", "API clients: their keys, scopes, regions, platforms and limits.")


def _moment(text: str | None) -> str | None:
    try:
        return None if text is None else clients.moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that `clients list` shows")]
ExpiresIn = Annotated[
    str | None,
    typer.Option("--expires", callback=_moment, help="When the key ends: 90d, 12h, or RFC 3339; by default never"),
]


@app.command("list")
@connected
def list_clients(
    connection: Connection,
    state: Annotated[str | None, typer.Option(help="active or disabled; by default both")] = None,
) -> None:
    """List the clients, their live keys, and when these were last used."""
    found = connection.run(lambda api: clients.list_clients(api, state))
    console_output.console.print(clients.listed(found))


@app.command()
@connected
def show(connection: Connection, name: Name) -> None:
    """Show a client and its keys."""
    _show(connection.run(lambda api: clients.get(api, name)))


@app.command()
@connected
def create(
    connection: Connection,
    name: Annotated[str, typer.Argument(help="1 to 63 of a-z, 0-9 and '-', the first a letter")],
    *,
    scope: Annotated[list[str], typer.Option(help="A scope, such as items:write; may be repeated")],
    region: Annotated[list[str], typer.Option(help="A region; '*' is every region; may be repeated")],
    platform: Annotated[
        list[str],
        typer.Option(
            help="A platform of items, notices and appeals; '*' is every platform, and scopes for other things need it;"
            " may be repeated"
        ),
    ],
    description: Annotated[str, typer.Option(help="A text for people")] = "",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Calls a second, on average; by default no limit")
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Calls at once; by default twice the rate")] = None,
    items: Annotated[float, typer.Option(min=0, help="Items a second, on average; 0: no limit of their own")] = 0.0,
    expires: ExpiresIn = None,
) -> None:
    """Create a client and its first key, which is shown only now."""
    if rate is None and (burst is not None or items):
        raise typer.BadParameter("--burst and --items go with --rate")
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
        await clients.create(api, body)
        return await clients.new_key(api, name, expires_at=expires, others_expire_at=None)

    clients.show_key(connection.run(make))


@app.command()
@connected
def rotate(
    connection: Connection,
    name: Name,
    *,
    expires: ExpiresIn = None,
    keep_old: Annotated[
        str | None,
        typer.Option(callback=_moment, help="How long the other key stays valid: 7d; by default until it is revoked"),
    ] = None,
) -> None:
    """Create a client's next key, which is shown only now, beside its present one."""
    made = connection.run(lambda api: clients.new_key(api, name, expires_at=expires, others_expire_at=keep_old))
    clients.show_key(made)


@app.command()
@connected
def revoke(
    connection: Connection,
    name: Name,
    key: Annotated[
        str, typer.Argument(metavar="KEY_ID", help="The id that `clients show` shows; never the key itself")
    ],
) -> None:
    """Revoke a key immediately, in all services."""
    if key.startswith("pp_"):
        raise typer.BadParameter(
            "that is the key itself, which must not be in a command line; give its id", param_hint="KEY_ID"
        )
    _show(connection.run(lambda api: clients.revoke(api, name, key)))


@app.command()
@connected
def disable(connection: Connection, name: Name) -> None:
    """Refuse all of a client's keys until it is enabled again."""
    _show(connection.run(lambda api: clients.set_state(api, name, "disabled")))


@app.command()
@connected
def enable(connection: Connection, name: Name) -> None:
    """Accept the live keys of a disabled client again."""
    _show(connection.run(lambda api: clients.set_state(api, name, "active")))


def _show(client: dict[str, Any]) -> None:
    for part in clients.shown(client):
        console_output.console.print(part)
