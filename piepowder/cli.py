"""The command's words and options. Each is checked before anything starts; what a command does is in its own module.

Exit status: 0 done; 1 done, but not all is as it should be (lines refused, items not accounted for, topics that
differ); 2 it could not be done; 130 interrupted.
"""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import pycountry
import typer
from pydantic import TypeAdapter, ValidationError

from deploy.local.errors import StackError, expected
from deploy.local.system import find_running
from piepowder import clients, keep, listings, look, replay, requests, review, run, sample, screen, withdraw
from piepowder.aside import Choice
from piepowder.client import Api, Refused
from piepowder.hints import runnable
from shared.kafka import topic_admin
from shared.runtime.errors import Transient
from shared.runtime.settings import RegionIds

T = TypeVar("T")

app = typer.Typer(
    name="piepowder",
    help="Moderation for a marketplace that trades in many regions, on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
control_app = typer.Typer(help="The operating model and the policies in force.", no_args_is_help=True)
app.add_typer(control_app, name="control")
clients_app = typer.Typer(
    help="Who may call: clients, their keys, scopes, regions, platforms and limits.", no_args_is_help=True
)
app.add_typer(clients_app, name="clients")
request_app = typer.Typer(help="Business requests: what is to change, and who decides it.", no_args_is_help=True)
app.add_typer(request_app, name="request")

_PLATFORM: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def _regions(text: str) -> list[str]:
    try:
        return list(dict.fromkeys(TypeAdapter(RegionIds).validate_python(text)))
    except ValidationError as error:
        raise typer.BadParameter(str(error.errors()[0]["msg"]), param_hint="--regions") from error


def _markets(codes: list[str]) -> list[str]:
    wrong = [code for code in codes if pycountry.countries.get(alpha_2=code.upper()) is None]
    if wrong:
        raise typer.BadParameter(f"{', '.join(wrong)}: expected ISO 3166-1 alpha-2 codes such as DE or US")
    return [code.upper() for code in codes]


def _currency(code: str) -> str:
    if pycountry.currencies.get(alpha_3=code.upper()) is None:
        raise typer.BadParameter(f"{code}: expected an ISO 4217 code such as EUR")
    return code.upper()


def _mapping(pairs: list[str]) -> list[str]:
    for pair in pairs:
        field, sign, column = pair.partition("=")
        if not sign or not column or field not in listings.FIELDS:
            raise typer.BadParameter(f"{pair!r}: expected FIELD=COLUMN, where FIELD is {', '.join(listings.FIELDS)}")
    return pairs


def _delimiter(text: str | None) -> str | None:
    named = {"tab": "\t", "\\t": "\t"}.get(text or "", text)
    if named is not None and len(named) != 1:
        raise typer.BadParameter("expected one character, or tab")
    return named


def _platform(text: str | None) -> str | None:
    if text is not None and _PLATFORM.fullmatch(text) is None:
        raise typer.BadParameter("expected 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit")
    return text


def _file(name: str | None) -> str | None:
    if name is not None and name != "-" and not Path(name).is_file():
        raise typer.BadParameter(f"there is no file {name}")
    return name


def _moment(text: str | None) -> str | None:
    try:
        return None if text is None else clients.moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _new(path: Path | None) -> Path | None:
    if path is not None and path.exists():
        raise typer.BadParameter(f"{path} is there already; name a file that is not")
    return path


Folder = Annotated[
    Path, typer.Option(envvar="PIEPOWDER_FOLDER", help="Where the system keeps its data", show_default=True)
]
Nodes = Annotated[int, typer.Option(min=1, max=3, help="Kafka nodes: 1 or 3")]
Regions = Annotated[str, typer.Option(help="Operating regions, comma-separated")]
Map = Annotated[
    list[str], typer.Option("--map", callback=_mapping, metavar="FIELD=COLUMN", help="Which column is which field")
]
Platform = Annotated[
    str | None, typer.Option(callback=_platform, help="The items' platform; the file's name if left out")
]
Kind = Annotated[str, typer.Option(help="product, seller or content")]
Market = Annotated[list[str], typer.Option(callback=_markets, help="Where the items are offered; may be repeated")]
Currency = Annotated[str, typer.Option(callback=_currency, help="The currency of prices that name none")]
Language = Annotated[str | None, typer.Option(help="The items' language (BCP 47)")]
Delimiter = Annotated[str | None, typer.Option(callback=_delimiter, help="Between the cells; found out if left out")]
Format = Annotated[str | None, typer.Option("--format", help="csv or ndjson; found out if left out")]
Lenient = Annotated[
    bool, typer.Option(help="Keep a price that is no number as an attribute, instead of refusing the line")
]

_NONE: Final[list[Any]] = []
_US: Final = ["US"]
DEFAULT_FOLDER: Final = Path(".piepowder")


def _options(
    *,
    file: str,
    mapping: list[str],
    platform: str | None,
    kind: str,
    market: list[str],
    currency: str,
    language: str | None,
    delimiter: str | None,
    format_: str | None,
    lenient: bool,
) -> listings.Options:
    stem = re.sub(r"[^a-z0-9]+", "-", Path(file).name.lower().split(".")[0])[:63].strip("-")
    if kind not in ("product", "seller", "content"):
        raise typer.BadParameter(f"{kind!r}: expected product, seller or content", param_hint="--kind")
    if format_ not in (None, "csv", "ndjson"):
        raise typer.BadParameter(f"{format_!r}: expected csv or ndjson", param_hint="--format")
    return listings.Options(
        platform=platform or stem or "local",
        kind=kind,
        markets=market,
        currency=currency,
        language=language,
        format=format_,
        mapping=dict(pair.split("=", 1) for pair in mapping),
        delimiter=delimiter,
        lenient=lenient,
    )


def _nodes(nodes: int) -> int:
    if nodes == 2:
        raise typer.BadParameter("expected 1 or 3", param_hint="--nodes")
    return nodes


def _with_api(folder: Path, work: Callable[[Api], Awaitable[T]], key_file: Path | None = None) -> T:
    """Run `work` on the system that runs in a folder, with the key in a file, else the local person's."""
    running = find_running(folder)
    key = running.key() if key_file is None else _key(key_file)

    async def working() -> T:
        async with Api(running, key) as api:
            return await work(api)

    return asyncio.run(working())


def _key(key_file: Path) -> str:
    with expected(key_file):
        return key_file.read_text(encoding="utf-8").strip()


@app.command()
def up(folder: Folder = DEFAULT_FOLDER, nodes: Nodes = 1, regions: Regions = "eu,us") -> None:
    """Start Kafka, PostgreSQL and all services, and keep them up until Ctrl-C."""
    keep.up(folder, nodes=_nodes(nodes), regions=_regions(regions))


@app.command("run")
def run_command(
    *,
    folder: Folder = DEFAULT_FOLDER,
    nodes: Nodes = 1,
    regions: Regions = "eu,us",
    file: Annotated[
        str | None, typer.Option(callback=_file, help="Your own CSV or NDJSON; a sample if left out")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=5_000_000, help="Lines of the sample")] = 5000,
    seed: Annotated[int, typer.Option(help="Of the sample and the simulated reviewers")] = 1,
    reviewers: Annotated[int, typer.Option(min=0, max=100, help="Simulated reviewers in each region")] = 4,
    leave: Annotated[int, typer.Option(min=0, help="About how many cases of each region they leave for you")] = 5,
    review_seconds: Annotated[float, typer.Option(min=0, help="How long they work, at most")] = 60.0,
    exit_: Annotated[
        bool, typer.Option("--exit", help="Stop after the summary; status 0 if all is accounted for")
    ] = False,
    mapping: Map = _NONE,
    platform: Platform = None,
    kind: Kind = "product",
    market: Market = _US,
    currency: Currency = "USD",
    language: Language = None,
    delimiter: Delimiter = None,
    format_: Format = None,
    lenient: Lenient = False,
) -> None:
    """The main job, end to end: start all, submit, review, account; then stay up until Ctrl-C."""
    job = run.Job(
        folder=folder,
        file=file,
        options=_options(
            file=file or "",
            mapping=mapping,
            platform=platform,
            kind=kind,
            market=market,
            currency=currency,
            language=language,
            delimiter=delimiter,
            format_=format_,
            lenient=lenient,
        ),
        count=count,
        seed=seed,
        reviewers=reviewers,
        leave=leave,
        review_seconds=review_seconds,
    )
    holds = run.run(job, nodes=_nodes(nodes), regions=_regions(regions), stay=not exit_)
    raise typer.Exit(0 if holds else 1)


@app.command()
def submit(
    file: Annotated[
        str, typer.Argument(callback=_file, help="CSV or NDJSON (items as in POST /v1/items); - reads standard input")
    ],
    *,
    folder: Folder = DEFAULT_FOLDER,
    mapping: Map = _NONE,
    platform: Platform = None,
    kind: Kind = "product",
    market: Market = _US,
    currency: Currency = "USD",
    language: Language = None,
    delimiter: Delimiter = None,
    format_: Format = None,
    lenient: Lenient = False,
    report: Annotated[
        Path | None, typer.Option(callback=_new, help="Where to write what was refused (NDJSON); beside the journal")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(callback=_new, help="Where to write what was accepted (NDJSON); in the folder")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Refusals to show, at most")] = 20,
) -> None:
    """Post a file to intake and show what was accepted and what was refused, with line numbers and reasons."""
    options = _options(
        file=file,
        mapping=mapping,
        platform=platform,
        kind=kind,
        market=market,
        currency=currency,
        language=language,
        delimiter=delimiter,
        format_=format_,
        lenient=lenient,
    )
    tally, kept = _with_api(
        folder, lambda api: run.submit_file(api, file, options, folder, journal=journal, report=report)
    )
    items = len({pair.item_id for pair in tally.pairs})
    screen.say(f"Accepted {tally.accepted:,} lines, {items:,} different items; refused {tally.refused:,}.")
    run.show_refusals(tally, kept.report, show)
    raise typer.Exit(1 if tally.refused else 0)


@app.command("review")
def review_command(
    *,
    folder: Folder = DEFAULT_FOLDER,
    region: Annotated[str | None, typer.Option(help="Whose cases; for people the first region, simulated: all")] = None,
    queue: Annotated[list[str], typer.Option(help="Only from this queue; may be repeated")] = _NONE,
    reviewer: Annotated[str, typer.Option(help="The name your decisions carry")] = "me",
    team: Annotated[str, typer.Option(help="Your team")] = "in_house",
    simulate: Annotated[
        int, typer.Option(min=0, max=100, help="This many simulated reviewers in each region instead of you")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the simulated reviewers")] = 1,
    for_: Annotated[
        float | None,
        typer.Option("--for", min=0, help="Seconds; simulated reviewers stop when nothing waits if left out"),
    ] = None,
) -> None:
    """Claim cases and decide them: by hand, one letter and Enter a case, or simulated."""
    running = find_running(folder)
    regions = running.chosen(region)
    if simulate:
        truth = run.read_truth(folder)
        done = _with_api(
            folder,
            lambda api: review.simulate(
                api, regions, each=simulate, seed=seed, truth=truth, queues=queue, team=team, seconds=for_
            ),
        )
        screen.say(f"Done: {review.told(done)}")
    else:
        decided = _with_api(folder, lambda api: review.by_hand(api, regions[0], reviewer, team, queue))
        made = {action: n for action, n in decided.items() if action != "skipped"}
        said = ", ".join(f"{n} {action}" for action, n in sorted(made.items())) or "no case"
        screen.say(f"You decided {sum(made.values())}: {said}.")


@app.command()
def status(folder: Folder = DEFAULT_FOLDER) -> None:
    """What runs, what waits, and what was decided."""
    parts, ready = _with_api(folder, look.status)
    for part in parts:
        screen.console.print(part)
    raise typer.Exit(0 if ready else 1)


@app.command()
def timeline(
    subject: Annotated[str, typer.Argument(help="platform:kind:id, or an item's id")],
    folder: Folder = DEFAULT_FOLDER,
    region: Annotated[str | None, typer.Option(help="One region; all if left out")] = None,
) -> None:
    """A subject's whole life, from cause to effect, out of the audit log."""
    regions = find_running(folder).chosen(region)
    for tree in _with_api(folder, lambda api: look.timeline(api, subject, regions)):
        screen.console.print(tree)


@app.command("withdraw")
def withdraw_command(
    item: Annotated[str, typer.Argument(metavar="ITEM_ID", help="As the answer to its post has it")],
    folder: Folder = DEFAULT_FOLDER,
    reason: Annotated[str, typer.Option(help="Kept with the withdrawal")] = "",
) -> None:
    """Take an item back: its open cases close; what was decided stays so."""
    taken_back = _with_api(folder, lambda api: withdraw.withdraw(api, item, reason))
    for region, state in sorted(taken_back.regions.items()):
        screen.say(f"{screen.clean(taken_back.subject)} in {region}: {state}")


@app.command()
def account(
    folder: Folder = DEFAULT_FOLDER,
    journal: Annotated[
        list[Path], typer.Option(help="Journals of submissions; all of the folder's if left out")
    ] = _NONE,
) -> None:
    """Compare what was accepted with what stands in Kafka and in the audit logs."""
    found = journal or run.journals(folder)
    reckoned = _with_api(folder, lambda api: run.account(api, found))
    screen.say(f"Journals: {', '.join(map(str, found)) or 'none'}")
    run.show_account(reckoned)
    raise typer.Exit(0 if reckoned.holds else 1)


@app.command("sample")
def sample_command(
    count: Annotated[int, typer.Option(min=1, help="Lines")] = 5000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same lines")] = 1,
) -> None:
    """Write the sample's lines to standard output (NDJSON)."""
    for line in sample.make(count, seed):
        sys.stdout.buffer.write(line.body + b"\n")


@app.command("topics")
def topics_command(
    folder: Folder = DEFAULT_FOLDER,
    kafka: Annotated[
        str | None, typer.Option(envvar="PIEPOWDER_KAFKA", help="Bootstrap servers; the running system's if left out")
    ] = None,
    regions: Annotated[str | None, typer.Option(help="Comma-separated; the running system's if left out")] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; status 1 if something differs")] = False,
) -> None:
    """Create the topics of the regions where they are missing, and say what differs from deploy/kafka/topics.yaml."""
    names = _regions(regions) if regions is not None else find_running(folder).regions
    bootstrap = kafka or find_running(folder).kafka
    wanted = topic_admin.expand(topic_admin.load(), names)
    report = asyncio.run(topic_admin.ensure(bootstrap, wanted, create=not check))
    for name in report.created:
        screen.say(f"created  {name}", "green")
    for name in report.present:
        screen.say(f"present  {name}")
    for difference in report.differences:
        screen.say(difference, "yellow")
    raise typer.Exit(1 if report.missing or (check and report.differences) else 0)


@app.command("replay")
def replay_command(
    *,
    folder: Folder = DEFAULT_FOLDER,
    kafka: Annotated[
        str | None, typer.Option(envvar="PIEPOWDER_KAFKA", help="Bootstrap servers; the running system's if left out")
    ] = None,
    region: Annotated[str | None, typer.Option(help="One region; all of the running system if left out")] = None,
    group: Annotated[str | None, typer.Option(help="One consumer group, or a service such as decision")] = None,
    key: Annotated[str | None, typer.Option(help="Put back what is set aside of this key (platform:kind:id)")] = None,
    reason: Annotated[str | None, typer.Option(help="Put back what was set aside for a reason with this text")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Put back everything")] = False,
    leave_failing: Annotated[
        bool,
        typer.Option("--leave-failing", help="Leave the record that parked its key where it is; put back the others"),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be put back, and change nothing")] = False,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for a group that meets nothing")] = 60.0,
) -> None:
    """Show what was set aside, and with --key, --reason or --all put it back, in order, for the group it is for."""
    if sum([key is not None, reason is not None, all_]) > 1:
        raise typer.BadParameter("name one of --key, --reason and --all")
    if kafka is not None and region is None:
        raise typer.BadParameter("expected with --kafka: whose topics to read", param_hint="--region")
    regions = find_running(folder).chosen(region) if kafka is None else _regions(region or "")
    choice = Choice(group, key, reason)
    bootstrap = kafka or find_running(folder).kafka
    act = not dry_run and (key is not None or reason is not None or all_)
    if not act:
        replay.show_aside(asyncio.run(replay.look(bootstrap, regions, choice)), chosen=dry_run)
        return
    outcome = asyncio.run(replay.replay(bootstrap, regions, choice, leave=leave_failing, wait=wait))
    replay.show(outcome, wait)
    raise typer.Exit(0 if outcome.complete else 1)


@control_app.command("publish")
def control_publish(
    folder: Folder = DEFAULT_FOLDER,
    operating_model: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="YAML: regions, markets, queues")
    ] = None,
    policies: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="YAML: terms and policies in CEL")
    ] = None,
) -> None:
    """Put an operating model, a policy set or both into force, checked together before anything is published."""
    named = {"operating_model": operating_model, "policy_set": policies}
    body = {name: _yaml(path) for name, path in named.items() if path is not None}
    if not body:
        raise typer.BadParameter("name a file with --operating-model, --policies or both")
    answer: dict[str, dict[str, Any] | None] = _with_api(folder, lambda api: _post_control(api, body))
    for name in body:
        put = answer.get(name) or {}
        state = "now in force" if put.get("changed") else "was in force already"
        screen.say(f"{name.replace('_', ' ')} {put.get('number')} ({put.get('id')}): {state}")


async def _post_control(api: Api, body: dict[str, Any]) -> Any:
    return (await api.post("router", "/v1/control", body)).json()


def _yaml(path: Path) -> Any:
    with expected(path):
        text = path.read_bytes()
    try:
        return msgspec.yaml.decode(text)
    except msgspec.DecodeError as error:
        raise StackError(f"{path} is not YAML ({error}).", "Mend it, and do the same again.") from error


@control_app.command("show")
def control_show(folder: Folder = DEFAULT_FOLDER) -> None:
    """What is in force, as YAML."""
    found = _with_api(folder, lambda api: api.get("router", "/v1/control"))
    screen.say(msgspec.yaml.encode(found).decode().rstrip())


KeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="PIEPOWDER_KEY_FILE", exists=True, dir_okay=False, help="Whose API key is used; yours if left out"
    ),
]
RequestId = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="As `request new` and `request list` show it")]
RequestKind = Annotated[
    str | None,
    typer.Option(help="new_category, new_market, policy_change, queue_change, service_level_change or capacity"),
]
RequestFile = Annotated[
    Path | None, typer.Option("--file", exists=True, dir_okay=False, help="YAML: the fields, as in POST /v1/requests")
]
RequestRegions = Annotated[list[str], typer.Option("--region", help="Whom it concerns; may be repeated")]
RequestMarkets = Annotated[list[str], typer.Option("--market", callback=_markets, help="Where; may be repeated")]
Title = Annotated[str | None, typer.Option(help="One line")]
Sponsor = Annotated[str | None, typer.Option(help="Who answers for it")]
ItemsPerDay = Annotated[int | None, typer.Option(min=0, help="How many items it brings")]
Date = Annotated[str | None, typer.Option(help="From when, YYYY-MM-DD")]
Rationale = Annotated[str | None, typer.Option(help="Why")]
ProposedPolicies = Annotated[
    Path | None, typer.Option("--policies", exists=True, dir_okay=False, help="YAML: the policy set that is asked for")
]
ProposedRegions = Annotated[
    Path | None,
    typer.Option(
        "--operating-model", exists=True, dir_okay=False, help="YAML: regions as they are to be; the others stay"
    ),
]


def _request_body(
    file: Path | None, policies: Path | None, operating_model: Path | None, **fields: object
) -> dict[str, Any]:
    """A request's fields: those of the file, those that are named before them, and the change from its own files."""
    body: dict[str, Any] = {} if file is None else _yaml(file)
    if not isinstance(body, dict):
        raise typer.BadParameter("expected a YAML mapping of fields", param_hint="--file")
    body |= {name: value for name, value in fields.items() if value not in (None, [])}
    files = {"policy_set": policies, "operating_model_diff": operating_model}
    change = {name: _yaml(path) for name, path in files.items() if path is not None}
    whole: dict[str, Any] = msgspec.to_builtins(body | ({"change": change} if change else {}))  # YAML has dates
    return whole


@request_app.command("new")
def request_new(
    *,
    folder: Folder = DEFAULT_FOLDER,
    key_file: KeyFile = None,
    file: RequestFile = None,
    title: Title = None,
    kind: RequestKind = None,
    sponsor: Sponsor = None,
    region: RequestRegions = _NONE,
    market: RequestMarkets = _NONE,
    items_per_day: ItemsPerDay = None,
    date: Date = None,
    rationale: Rationale = None,
    policies: ProposedPolicies = None,
    operating_model: ProposedRegions = None,
    key: Annotated[str | None, typer.Option(help="Names the request: the same again makes no second")] = None,
) -> None:
    """Begin a business request, as a draft; its change is checked at once."""
    body = _request_body(
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
    _show_outcome(_with_api(folder, lambda api: requests.new(api, body, key), key_file))


@request_app.command("change")
def request_change(
    request: RequestId,
    *,
    folder: Folder = DEFAULT_FOLDER,
    key_file: KeyFile = None,
    file: RequestFile = None,
    title: Title = None,
    policies: ProposedPolicies = None,
    operating_model: ProposedRegions = None,
) -> None:
    """Change a draft: what is named takes the place of what it says."""
    body = _request_body(file, policies, operating_model, title=title)
    _show_outcome(_with_api(folder, lambda api: requests.change(api, request, body), key_file))


@request_app.command("list")
def request_list(
    *,
    folder: Folder = DEFAULT_FOLDER,
    key_file: KeyFile = None,
    state: Annotated[str | None, typer.Option(help="draft, submitted, approved ...")] = None,
    kind: RequestKind = None,
    region: Annotated[str | None, typer.Option(help="Those that concern it")] = None,
    sponsor: Sponsor = None,
) -> None:
    """The newest business requests."""
    named = {"state": state, "kind": kind, "region": region, "sponsor": sponsor}
    wanted = {name: value for name, value in named.items() if value is not None}
    screen.console.print(requests.listed(_with_api(folder, lambda api: requests.page(api, wanted), key_file)))


@request_app.command("show")
def request_show(request: RequestId, folder: Folder = DEFAULT_FOLDER, key_file: KeyFile = None) -> None:
    """A business request with its change, its history and its comments."""
    for part in requests.shown(_with_api(folder, lambda api: requests.show(api, request), key_file)):
        screen.console.print(part)


@request_app.command("comment")
def request_comment(
    request: RequestId,
    text: Annotated[str, typer.Argument()],
    folder: Folder = DEFAULT_FOLDER,
    key_file: KeyFile = None,
) -> None:
    """Say something about a business request."""
    said = _with_api(folder, lambda api: requests.comment(api, request, text), key_file)
    screen.say(f"Said, as version {said['version']}.")


def _request_command(name: str) -> Callable[..., None]:
    def act(
        request: RequestId,
        folder: Folder = DEFAULT_FOLDER,
        key_file: KeyFile = None,
        reason: Annotated[str, typer.Option(help="Kept with it")] = "",
    ) -> None:
        _show_outcome(_with_api(folder, lambda api: requests.act(api, request, name, reason), key_file))

    return act


for _name, _help in requests.COMMANDS.items():
    request_app.command(_name, help=_help)(_request_command(_name))


def _show_outcome(request: dict[str, Any]) -> None:
    screen.say(requests.outcome(request))
    if request["state"] == "draft":
        for line in requests.checked(request):
            screen.say(line)


ClientName = Annotated[str, typer.Argument(metavar="NAME", help="As `clients list` shows it")]
ExpiresIn = Annotated[
    str | None,
    typer.Option("--expires", callback=_moment, help="When the key ends: 90d, 12h, or RFC 3339; never if left out"),
]


@clients_app.command("list")
def clients_list(
    folder: Folder = DEFAULT_FOLDER,
    key_file: KeyFile = None,
    state: Annotated[str | None, typer.Option(help="active or disabled; both if left out")] = None,
) -> None:
    """All clients, their living keys, and when these were last used."""
    found = _with_api(folder, lambda api: clients.every(api, state), key_file)
    screen.console.print(clients.listed(found))


@clients_app.command("show")
def clients_show(name: ClientName, folder: Folder = DEFAULT_FOLDER, key_file: KeyFile = None) -> None:
    """A client and its keys' times."""
    for part in clients.shown(_with_api(folder, lambda api: clients.one(api, name), key_file)):
        screen.console.print(part)


@clients_app.command("create")
def clients_create(
    name: Annotated[str, typer.Argument(help="1 to 63 of a-z, 0-9 and '-', the first a letter")],
    *,
    folder: Folder = DEFAULT_FOLDER,
    key_file: KeyFile = None,
    scope: Annotated[list[str], typer.Option(help="What it may do, such as items:write; may be repeated")],
    region: Annotated[list[str], typer.Option(help="Where; '*' is everywhere; may be repeated")],
    platform: Annotated[
        list[str],
        typer.Option(
            help="Whose items, notices and appeals; '*' is everyone's, and all other scopes need it; may be repeated"
        ),
    ],
    description: Annotated[str, typer.Option(help="For people")] = "",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Calls a second, on average; no limit if left out")
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Calls at once; twice the rate if left out")] = None,
    items: Annotated[float, typer.Option(min=0, help="Items a second, on average; 0: no limit of their own")] = 0.0,
    expires: ExpiresIn = None,
) -> None:
    """Make a client and its first key, which is shown this once."""
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

    clients.show_key(_with_api(folder, make, key_file))


@clients_app.command("rotate")
def clients_rotate(
    name: ClientName,
    *,
    folder: Folder = DEFAULT_FOLDER,
    key_file: KeyFile = None,
    expires: ExpiresIn = None,
    keep_old: Annotated[
        str | None,
        typer.Option(callback=_moment, help="How long the other key still opens: 7d; until it is revoked if left out"),
    ] = None,
) -> None:
    """Make a client's next key, which is shown this once, beside the one that it has."""
    made = _with_api(
        folder, lambda api: clients.new_key(api, name, expires_at=expires, others_expire_at=keep_old), key_file
    )
    clients.show_key(made)


@clients_app.command("revoke")
def clients_revoke(
    name: ClientName,
    key: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `clients show` has it; never the key itself")],
    folder: Folder = DEFAULT_FOLDER,
    key_file: KeyFile = None,
) -> None:
    """End a key at once, everywhere."""
    if key.startswith("pp_"):
        raise typer.BadParameter(
            "that is the key itself, which belongs in no command line; give its id", param_hint="KEY_ID"
        )
    for part in clients.shown(_with_api(folder, lambda api: clients.revoke(api, name, key), key_file)):
        screen.console.print(part)


@clients_app.command("disable")
def clients_disable(name: ClientName, folder: Folder = DEFAULT_FOLDER, key_file: KeyFile = None) -> None:
    """Let none of a client's keys open anything, until it is enabled again."""
    for part in clients.shown(_with_api(folder, lambda api: clients.set_state(api, name, "disabled"), key_file)):
        screen.console.print(part)


@clients_app.command("enable")
def clients_enable(name: ClientName, folder: Folder = DEFAULT_FOLDER, key_file: KeyFile = None) -> None:
    """Let a disabled client's living keys open again what they are for."""
    for part in clients.shown(_with_api(folder, lambda api: clients.set_state(api, name, "active"), key_file)):
        screen.console.print(part)


def main() -> None:
    """The command: an expected failure is a sentence and a status, never a traceback."""
    try:
        app()
    except (StackError, Refused, Transient, ExceptionGroup) as failed:
        screen.complain(runnable(str(_expected(failed))))
        sys.exit(2)


def _expected(failed: Exception) -> Exception:
    """The expected failure inside; raises what is not expected."""
    while isinstance(failed, ExceptionGroup):
        failed = failed.exceptions[0]
    if not isinstance(failed, StackError | Refused | Transient):
        raise failed
    return failed
