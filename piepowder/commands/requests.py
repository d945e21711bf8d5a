"""Business requests."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from piepowder import console_output, requests
from piepowder.commands import options
from piepowder.commands.options import Connection, connected

app = options.new_app("request", "Business requests: propose a change and decide it.")

RequestId = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The id that `request list` shows")]
Kind = Annotated[
    str | None,
    typer.Option(help="new_category, new_market, policy_change, queue_change, service_level_change or capacity"),
]
File = Annotated[
    Path | None, typer.Option("--file", exists=True, dir_okay=False, help="YAML: the fields, as in POST /v1/requests")
]
Regions = Annotated[list[str], typer.Option("--region", help="A region that it concerns; may be repeated")]
Title = Annotated[str | None, typer.Option(help="One line")]
Sponsor = Annotated[str | None, typer.Option(help="The person who is responsible for it")]
Policies = Annotated[
    Path | None, typer.Option("--policies", exists=True, dir_okay=False, help="YAML: the proposed policy set")
]
OperatingModel = Annotated[
    Path | None,
    typer.Option(
        "--operating-model", exists=True, dir_okay=False, help="YAML: the proposed regions; the others stay as they are"
    ),
]


def _body(file: Path | None, policies: Path | None, operating_model: Path | None, **fields: object) -> dict[str, Any]:
    """A request's fields from the file and the options, which take precedence, with the change from its own files."""
    body: dict[str, Any] = {} if file is None else options.read_yaml(file)
    if not isinstance(body, dict):
        raise typer.BadParameter("expected a YAML mapping of fields", param_hint="--file")
    body |= {name: value for name, value in fields.items() if value not in (None, [])}
    files = {"policy_set": policies, "operating_model_diff": operating_model}
    change = {name: options.read_yaml(path) for name, path in files.items() if path is not None}
    whole: dict[str, Any] = msgspec.to_builtins(body | ({"change": change} if change else {}))  # YAML has dates
    return whole


@app.command()
@connected
def new(
    connection: Connection,
    *,
    file: File = None,
    title: Title = None,
    kind: Kind = None,
    sponsor: Sponsor = None,
    region: Regions = options.NONE,
    market: options.Markets = options.NONE,
    items_per_day: Annotated[int | None, typer.Option(min=0, help="The expected items per day")] = None,
    date: Annotated[str | None, typer.Option(help="The expected start, YYYY-MM-DD")] = None,
    rationale: Annotated[str | None, typer.Option(help="The reason")] = None,
    policies: Policies = None,
    operating_model: OperatingModel = None,
    key: Annotated[str | None, typer.Option(help="An idempotency key: repeating the command creates no second")] = None,
) -> None:
    """Create a business request as a draft; its change is checked."""
    body = _body(
        file,
        policies,
        operating_model,
        title=title,
        kind=kind,
        sponsor=sponsor,
        regions=region,
        markets=market,
        expected_items_per_day=items_per_day,
        expected_date=date,
        rationale=rationale,
    )
    _show_outcome(connection.run(lambda api: requests.new(api, body, key)))


@app.command()
@connected
def change(
    connection: Connection,
    request: RequestId,
    *,
    file: File = None,
    title: Title = None,
    policies: Policies = None,
    operating_model: OperatingModel = None,
) -> None:
    """Change a draft: the given fields replace its own."""
    body = _body(file, policies, operating_model, title=title)
    _show_outcome(connection.run(lambda api: requests.change(api, request, body)))


@app.command("list")
@connected
def list_requests(
    connection: Connection,
    *,
    state: Annotated[str | None, typer.Option(help="draft, submitted, approved ...")] = None,
    kind: Kind = None,
    region: Annotated[str | None, typer.Option(help="Only requests that concern this region")] = None,
    sponsor: Sponsor = None,
) -> None:
    """List the newest business requests."""
    values = {"state": state, "kind": kind, "region": region, "sponsor": sponsor}
    wanted = {name: value for name, value in values.items() if value is not None}
    console_output.console.print(requests.listed(connection.run(lambda api: requests.page(api, wanted))))


@app.command()
@connected
def show(connection: Connection, request: RequestId) -> None:
    """Show a business request with its change, history and comments."""
    for part in requests.shown(connection.run(lambda api: requests.show(api, request))):
        console_output.console.print(part)


@app.command()
@connected
def comment(connection: Connection, request: RequestId, text: Annotated[str, typer.Argument()]) -> None:
    """Comment on a business request."""
    added = connection.run(lambda api: requests.comment(api, request, text))
    console_output.show(f"Added, as version {added['version']}.")


def _action(name: str) -> Callable[..., None]:
    @connected
    def act(
        connection: Connection,
        request: RequestId,
        reason: Annotated[str, typer.Option(help="Stored with it")] = "",
    ) -> None:
        _show_outcome(connection.run(lambda api: requests.act(api, request, name, reason)))

    return act


for _name, _help in requests.COMMANDS.items():
    app.command(_name, help=_help)(_action(_name))


def _show_outcome(request: dict[str, Any]) -> None:
    console_output.show(requests.outcome(request))
    if request["state"] == "draft":
        for line in requests.checked(request):
            console_output.show(line)
