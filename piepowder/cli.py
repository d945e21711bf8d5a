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
from piepowder import keep, listings, look, review, run, sample, screen
from piepowder.client import Api, Refused
from shared.errors import Transient
from shared.kafka import topics as kafka_topics
from shared.settings import RegionIds

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
    lenient: bool,
) -> listings.Options:
    stem = re.sub(r"[^a-z0-9]+", "-", Path(file).name.lower().split(".")[0])[:63].strip("-")
    if kind not in ("product", "seller", "content"):
        raise typer.BadParameter(f"{kind!r}: expected product, seller or content", param_hint="--kind")
    return listings.Options(
        platform=platform or stem or "local",
        kind=kind,
        markets=market,
        currency=currency,
        language=language,
        mapping=dict(pair.split("=", 1) for pair in mapping),
        delimiter=delimiter,
        lenient=lenient,
    )


def _nodes(nodes: int) -> int:
    if nodes == 2:
        raise typer.BadParameter("expected 1 or 3", param_hint="--nodes")
    return nodes


def _with_api(folder: Path, work: Callable[[Api], Awaitable[T]]) -> T:
    """Run `work` on the system that runs in a folder."""
    running = find_running(folder)

    async def working() -> T:
        async with Api(running, running.key()) as api:
            return await work(api)

    return asyncio.run(working())


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
    lenient: Lenient = False,
    report: Annotated[Path | None, typer.Option(help="Where to write what was refused (NDJSON)")] = None,
    journal: Annotated[Path | None, typer.Option(help="Where to write what was accepted (NDJSON)")] = None,
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
        lenient=lenient,
    )
    report = report or folder / "submitted" / f"{options.platform}-refused.ndjson"
    journal = journal or folder / "submitted" / f"{options.platform}.ndjson"
    tally = _with_api(folder, lambda api: run.submit_file(api, file, options, journal, report))
    items = len({pair.item_id for pair in tally.pairs})
    screen.say(f"Accepted {tally.accepted:,} lines, {items:,} different items; refused {tally.refused:,}.")
    run.show_refusals(tally, report, show)
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
    regions = [region] if region is not None else running.regions
    for name in regions:
        running.url(f"decision-{name}")
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
        approved, rejected = decided["approve"], decided["reject"]
        screen.say(f"You decided {approved + rejected}: {approved} approved, {rejected} rejected.")


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
    running = find_running(folder)
    regions = [region] if region is not None else running.regions
    for tree in _with_api(folder, lambda api: look.timeline(api, subject, regions)):
        screen.console.print(tree)


@app.command()
def account(
    folder: Folder = DEFAULT_FOLDER,
    journal: Annotated[
        list[Path], typer.Option(help="Journals of submissions; all of the folder's if left out")
    ] = _NONE,
) -> None:
    """Compare what was accepted with what stands in Kafka and in the audit logs."""
    journals = journal or [*sorted((folder / "submitted").glob("*.ndjson")), folder / "run" / "journal.ndjson"]
    found = [path for path in journals if path.exists() and not path.name.endswith("-refused.ndjson")]
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
    wanted = kafka_topics.expand(kafka_topics.load(), names)
    report = asyncio.run(kafka_topics.ensure(bootstrap, wanted, create=not check))
    for name in report.created:
        screen.say(f"created  {name}", "green")
    for name in report.present:
        screen.say(f"present  {name}")
    for difference in report.differences:
        screen.say(difference, "yellow")
    raise typer.Exit(1 if check and report.differences else 0)


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
        raise StackError(f"{path} is not YAML ({error}).", "Mend it and publish again.") from error


@control_app.command("show")
def control_show(folder: Folder = DEFAULT_FOLDER) -> None:
    """What is in force, as YAML."""
    found = _with_api(folder, lambda api: api.get("router", "/v1/control"))
    screen.say(msgspec.yaml.encode(found).decode().rstrip())


def main() -> None:
    """The command: an expected failure is a sentence and a status, never a traceback."""
    try:
        app()
    except (StackError, Refused, Transient, ExceptionGroup) as failed:
        screen.complain(_expected(failed))
        sys.exit(2)


def _expected(failed: Exception) -> Exception:
    """The expected failure inside; raises what is not expected."""
    while isinstance(failed, ExceptionGroup):
        failed = failed.exceptions[0]
    if not isinstance(failed, StackError | Refused | Transient):
        raise failed
    return failed
