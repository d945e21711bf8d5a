"""Business requests."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from piepowder import console_output
from piepowder.client import Api
from piepowder.commands import options
from piepowder.commands.options import ApiConnection, grouped
from shared.contracts import ids
from shared.contracts.policy_documents import published_form
from shared.runtime.clock import SystemClock, to_text

_ACTIONS: Final = {
    "submit": "Submit a draft for decision; its change is checked again.",
    "withdraw": "Withdraw your own request.",
    "approve": "Approve a request of another person.",
    "reject": "Reject a request of another person, with --reason.",
    "deploy": "Not available yet: shows the steps that put the change into force by hand.",
    "rollback": "Not available yet: shows the steps that take the change back by hand.",
    "review": "Record the result of a deployed request.",
}
_OPTIONS: Final = {
    "title": "--title",
    "kind": "--kind",
    "sponsor": "--sponsor",
    "regions": "--region",
    "markets": "--market",
    "expected_items_per_day": "--items-per-day",
    "expected_date": "--date",
    "rationale": "--rationale",
    "change/policy_set": "--policies",
    "change/operating_model_diff": "--operating-model",
}
"""The option of each field of a request."""
_PAGE: Final = 200
_clock = SystemClock()

app = options.new_app("request", "Business requests: propose a change and decide it.")

RequestId = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The id that `request list` shows")]
Kind = Annotated[
    str | None,
    typer.Option(help="new_category, new_market, policy_change, queue_change, service_level_change or capacity"),
]
File = Annotated[
    Path | None, typer.Option("--file", exists=True, dir_okay=False, help="YAML: the fields, as in POST /v1/requests")
]
Regions = Annotated[list[str], typer.Option("--region", help="A region of the request; may be repeated")]
Title = Annotated[str | None, typer.Option(help="The title, one line")]
Sponsor = Annotated[str | None, typer.Option(help="The responsible person")]
Policies = Annotated[
    Path | None, typer.Option("--policies", exists=True, dir_okay=False, help="YAML: the proposed policy set")
]
OperatingModelFile = Annotated[
    Path | None,
    typer.Option(
        "--operating-model", exists=True, dir_okay=False, help="YAML: the proposed regions; the others stay as they are"
    ),
]


def _body(file: Path | None, policies: Path | None, operating_model: Path | None, **fields: object) -> dict[str, Any]:
    """A request's fields from the file and the options, which take precedence, with the change from its own files."""
    body: dict[str, Any] = {} if file is None else options.read_yaml(file)
    if not isinstance(body, dict):
        raise typer.BadParameter("expected a YAML mapping of fields.", param_hint="--file")
    body |= {name: value for name, value in fields.items() if value not in (None, [])}
    files = {"policy_set": policies, "operating_model_diff": operating_model}
    change = {name: options.read_yaml(path) for name, path in files.items() if path is not None}
    if isinstance(change.get("policy_set"), dict):
        change["policy_set"] = published_form(change["policy_set"])
    whole: dict[str, Any] = msgspec.to_builtins(body | ({"change": change} if change else {}))  # YAML has dates
    return whole


def _names(file: Path | None, **fields: object) -> dict[str, str]:
    """The origin of each field in a fault: its option, or the file if the file gives it."""
    origin = {f"/{name}": option for name, option in _OPTIONS.items()}
    if file is None:
        return origin
    own = {f"/{name}": f"{name} in {file}" for name in _OPTIONS if fields.get(name) in (None, [])}
    return {"": str(file)} | origin | own


@app.command()
@grouped
def new(
    connection: ApiConnection,
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
    operating_model: OperatingModelFile = None,
    key: Annotated[str | None, typer.Option(help="An idempotency key: a repeated command creates nothing")] = None,
) -> None:
    """Create a business request as a draft; its change is checked."""
    fields = {
        "title": title,
        "kind": kind,
        "sponsor": sponsor,
        "regions": region,
        "markets": market,
        "expected_items_per_day": items_per_day,
        "expected_date": date,
        "rationale": rationale,
    }
    body = _body(file, policies, operating_model, **fields)
    files = {"change/policy_set": policies, "change/operating_model_diff": operating_model}
    with options.named_faults(_names(file, **fields, **files)):
        _show_outcome(connection.run(lambda api: api.post("intake", "/v1/requests", body, key=key or _key(body))))


@app.command()
@grouped
def change(
    connection: ApiConnection,
    request: RequestId,
    *,
    file: File = None,
    title: Title = None,
    policies: Policies = None,
    operating_model: OperatingModelFile = None,
) -> None:
    """Change a draft: the given fields replace its own."""
    body = _body(file, policies, operating_model, title=title)

    async def patch(api: Api) -> Any:
        etag = f'"{(await api.get("intake", _path(request)))["version"]}"'
        return (await api.call("intake", "PATCH", _path(request), json=body, headers={"If-Match": etag})).json()

    files = {"change/policy_set": policies, "change/operating_model_diff": operating_model}
    with options.named_faults(_names(file, title=title, **files)):
        _show_outcome(connection.run(patch))


@app.command("list")
@grouped
def list_requests(
    connection: ApiConnection,
    *,
    state: Annotated[str | None, typer.Option(help="draft, submitted, approved ...")] = None,
    kind: Kind = None,
    region: Annotated[str | None, typer.Option(help="Only requests of this region")] = None,
    sponsor: Sponsor = None,
) -> None:
    """List the newest business requests."""
    values = {"state": state, "kind": kind, "region": region, "sponsor": sponsor}
    wanted = {name: value for name, value in values.items() if value is not None}
    found = connection.run(lambda api: api.get("intake", "/v1/requests", limit=_PAGE, **wanted))
    console_output.console.print(_table(found["requests"]))


@app.command()
@grouped
def show(connection: ApiConnection, request: RequestId) -> None:
    """Show a business request with its change, history and comments."""
    _show_details(connection.run(lambda api: api.get("intake", _path(request))))


@app.command()
@grouped
def comment(connection: ApiConnection, request: RequestId, text: Annotated[str, typer.Argument()]) -> None:
    """Comment on a business request."""
    body = {"text": text}
    added = connection.run(lambda api: api.post("intake", f"{_path(request)}/comments", body, key=_key(body)))
    console_output.show(f"Added, as version {added['version']}.")


def _action(name: str) -> Callable[..., None]:
    @grouped
    def act(
        connection: ApiConnection,
        request: RequestId,
        reason: Annotated[str, typer.Option(help="Stored with the step")] = "",
    ) -> None:
        body = {"reason": reason} if reason else {}
        _show_outcome(connection.run(lambda api: api.post("intake", f"{_path(request)}/{name}", body)))

    return act


for _name, _help in _ACTIONS.items():
    app.command(_name, help=_help)(_action(_name))


def _show_outcome(request: dict[str, Any]) -> None:
    console_output.show(_state_line(request))
    if request["state"] == "draft":
        for line in _check_lines(request):
            console_output.show(line)


def _table(requests: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = console_output.table("request", "state", "kind", "regions", "by", "since", "title")
    for request in requests:
        since = str(request["updated_at"])[:16].replace("T", " ")
        regions = ", ".join(request["regions"])
        cells = (request["request_id"], request["state"], request["kind"], regions, request["drafted"]["by"], since)
        table.add_row(*map(console_output.clean, cells), console_output.clean(request["title"], 80))
    return table


def _state_line(request: Mapping[str, Any]) -> str:
    approvals = len(request["approvals"])
    needed = f", {approvals} of {request['approvals_needed']} approvals" if request["state"] == "submitted" else ""
    return f"{request['request_id']}: {console_output.clean(request['state'])}{needed}, version {request['version']}"


def _check_lines(request: Mapping[str, Any]) -> list[str]:
    """The result of the router's check of the change, as lines."""
    check = request["check"]
    verdict = check.get("verdict", "nothing")
    if verdict == "nothing":
        return []
    if verdict == "unchecked":
        return [f"Its change is not checked yet: {console_output.clean(check.get('reason', ''))}"]
    differences = check.get("differences", [])
    lines = [f"  {console_output.clean(one['what'])}: {console_output.clean(one['how'])}" for one in differences]
    more = check.get("differing", 0) - len(lines)
    lines += [f"  and {more} more"] if more else []
    return ["Its change is valid and would change:" if lines else "Its change is valid and changes nothing.", *lines]


def _show_details(request: Mapping[str, Any]) -> None:
    values = {
        "request": request["request_id"],
        "state": request["state"],
        "title": request["title"],
        "kind": request["kind"],
        "sponsor": request["sponsor"],
        "regions": ", ".join(request["regions"]),
        "markets": ", ".join(request["markets"]) or "all",
        "items a day": request["expected_items_per_day"],
        "from": request["expected_date"],
        "approved by": ", ".join(mark["by"] for mark in request["approvals"]),
        "in the audit": request["subject"],
    }
    fields = {name: console_output.clean(value) for name, value in values.items() if value not in (None, "")}
    parts: list[RenderableType] = [console_output.fields(fields), ""]
    if request["rationale"]:
        parts += [Text("\n".join(console_output.clean(line) for line in request["rationale"].splitlines())), ""]
    parts += [Text(line) for line in _check_lines(request)]
    comments = {one["version"]: one["text"] for one in request["comments"]}
    table = console_output.table("when", "what", "by", "")
    for step in request["history"]:
        text = comments.get(step["version"], step["reason"])
        table.add_row(*map(console_output.clean, (step["at"], step["kind"], step["by"], text)))
    for part in (*parts, "", table):
        console_output.console.print(part)


def _path(request_id: str) -> str:
    return f"/v1/requests/{quote(request_id, safe='')}"


def _key(body: Mapping[str, Any]) -> str:
    """A new idempotency key for one command; the retries of its call use the same key."""
    return ids.derive("command", msgspec.json.encode(body).decode(), to_text(_clock.now()))
