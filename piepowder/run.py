"""The main job, end to end: a file goes in, simulated reviewers work the queues, and an account comes out that does not
believe the services but compares what was promised with what stands in Kafka and in the audit log."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.local.errors import StackError, expected
from deploy.local.system import Running, find_running
from piepowder import listings, look, sample, screen
from piepowder.accounting import Account, Fate, Ledger, audited
from piepowder.client import Api
from piepowder.hints import command
from piepowder.keep import Kept
from piepowder.observe import Observer
from piepowder.review import Simulation, told
from piepowder.submit import Accepted, Submitter, Tally
from piepowder.withdraw import withdraw
from shared.runtime.clock import SystemClock
from shared.runtime.retry import wait

_POLL_SECONDS: Final = 0.4
_NO_PROGRESS_SECONDS: Final = 90.0
_SETTLE_SECONDS: Final = 90.0
_REFUSALS_SHOWN: Final = 12
_TAKEN_BACK: Final = 3
_TRUTH: Final = Path("sample", "truth.json")
_SUBMITTED: Final = "submitted"
_REFUSED: Final = "-refused.ndjson"
_clock = SystemClock()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: `file` and how to read it, or a sample of `count` lines from `seed`; `reviewers` in each region,
    who leave `leave` cases of each region for the person, and work for `review_seconds` at most."""

    folder: Path
    file: str | None
    options: listings.Options
    count: int
    seed: int
    reviewers: int
    leave: int
    review_seconds: float


class Outcome(msgspec.Struct, frozen=True):
    """What happened: times in seconds since the submission began, `first` decision and `settled`."""

    tally: Tally
    kept: "Record"
    account: Account
    first: float | None
    submitted: float
    settled: float
    dead_letters: Mapping[str, int]


class Record(NamedTuple):
    """The files of a submission: what was accepted, and what was refused."""

    journal: Path
    report: Path


def write_sample(folder: Path, count: int, seed: int) -> str:
    """Make the sample's lines and, beside them, their truth; the name of the file of lines."""
    lines, truth = folder / "sample" / "listings.ndjson", folder / _TRUTH
    with expected(folder):
        lines.parent.mkdir(parents=True, exist_ok=True)
        with lines.open("wb") as file:
            for line in sample.make(count, seed):
                file.write(line.body + b"\n")
        truth.write_bytes(msgspec.json.encode(sample.truth(sample.make(count, seed))))
    return str(lines)


def read_truth(folder: Path) -> dict[str, str]:
    """The truth of the sample that was last made in a folder; nothing when there is none."""
    path = folder / _TRUTH
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}


def run(job: Job, *, nodes: int, regions: Sequence[str], stay: bool) -> bool:
    """Start all, do the job, show what happened; then, with `stay`, stay up until interrupted. Whether the account
    holds. Raises `StackError` when something does not start, or ends for good."""
    if job.file is not None and job.file != "-":
        source = listings.Source(job.file)
        listings.read(source, job.options)
        source.close()
    began = _clock.monotonic()
    with Kept(job.folder, nodes=nodes, regions=regions) as kept:
        screen.console.print(kept.board())
        screen.say(f"Ready after {_clock.monotonic() - began:.1f} s")
        outcome = asyncio.run(main_job(kept, job))
        if stay:
            _invite(kept, job.folder)
            with suppress(KeyboardInterrupt):
                kept.watch()
        return outcome.account.holds


def _invite(kept: Kept, folder: Path) -> None:
    system = kept.system
    screen.say()
    screen.console.print(kept.board())
    region = system.regions[0]
    chosen = "" if folder == Path(".piepowder") else f" --folder {folder}"
    screen.say("Everything stays up until Ctrl-C. In another terminal, try:", "bold")
    screen.say(f'  curl -H "Authorization: Bearer $(cat {folder / "key"})" {system.url("decision", region)}/v1/queues')
    screen.say(f"  {screen.near(command(f'status{chosen}'))}")
    screen.say(f"  {screen.near(command(f'review{chosen}'))}")


async def account(api: Api, journals: Sequence[Path]) -> Account:
    """Read the topics from their first offset and reckon what the journals say was accepted."""
    ledger = Ledger()
    observer = Observer(api.running.kafka, api.running.regions, ledger)
    pairs = {pair for journal in journals for entry in _entries(journal) for pair in entry.pairs()}
    try:
        totals = [await api.get(f"audit-{region}", "/v1/totals") for region in api.running.regions]
        await observer.catch_up()
    finally:
        await observer.close()
    return ledger.account(pairs, {total["region"]: audited(total) for total in totals})


def _entries(journal: Path) -> Iterator[Accepted]:
    with expected(journal), journal.open("rb") as lines:
        for line in lines:
            try:
                yield msgspec.json.decode(line, type=Accepted)
            except msgspec.DecodeError as error:
                raise StackError(f"{journal} is not a journal ({error}).", "Name one with --journal.") from error


async def main_job(kept: Kept, job: Job) -> Outcome:
    """Submit, review, wait until all is settled, account. Raises `StackError` when something ends for good."""
    name = write_sample(job.folder, job.count, job.seed) if job.file is None else job.file
    running = find_running(job.folder)
    async with Api(running, kept.system.key()) as api:
        work = asyncio.ensure_future(_Work(api, running, name, job).run())
        watching = asyncio.ensure_future(_watch(kept))
        try:
            await asyncio.wait([work, watching], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                watching.result()
            outcome = await work
            await show(outcome, api)
            return outcome
        finally:
            work.cancel()
            watching.cancel()
            await asyncio.wait([work, watching])


async def _watch(kept: Kept) -> None:
    while True:
        if failures := kept.failures():
            raise failures[0]
        await asyncio.sleep(0.5)


class _Work:
    def __init__(self, api: Api, running: Running, file: str, job: Job) -> None:
        self._api = api
        self._regions = running.regions
        self._file = file
        self._job = job
        self._ledger = Ledger()
        self._observer = Observer(running.kafka, running.regions, self._ledger)
        self._enough = asyncio.Event()
        self._started = 0.0
        self._first: float | None = None

    async def run(self) -> Outcome:
        job = self._job
        try:
            await self._observer.catch_up()
            before, self._started = self._ledger.decided, _clock.monotonic()
            crew = Simulation(
                self._api,
                self._regions,
                each=job.reviewers,
                seed=job.seed,
                truth=read_truth(job.folder) if job.file is None else {},
                leave=job.leave,
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(self._observe(before))
                reviewing = group.create_task(crew.run())
                tally, kept = await submit_file(self._api, self._file, job.options, job.folder)
                submitted = self._elapsed()
                screen.say(f"Submitted {tally.accepted + tally.refused:,} lines in {submitted:.1f} s")
                await self._until_routed(tally)
                screen.say(f"All have a case, and policy has decided, after {self._elapsed():.1f} s")
                if job.file is None:
                    await self._take_some_back(tally)
                crew.finishing.set()
                await asyncio.wait([reviewing], timeout=job.review_seconds)
                crew.stop.set()
                await asyncio.wait([reviewing])
                screen.say(f"The reviewers have finished after {self._elapsed():.1f} s: {told(crew.done)}")
                self._enough.set()
            reckoned = await self._until_settled(tally)
            return Outcome(tally, kept, reckoned, self._first, submitted, self._elapsed(), self._ledger.dead_letters)
        finally:
            await self._observer.close()

    def _elapsed(self) -> float:
        return _clock.monotonic() - self._started

    async def _observe(self, before: int) -> None:
        while not self._enough.is_set():
            await self._observer.catch_up()
            if self._first is None and self._ledger.decided > before:
                self._first = self._elapsed()
                screen.say(f"First decision after {self._first:.1f} s")
            await wait(self._enough, _POLL_SECONDS)

    async def _until_routed(self, tally: Tally) -> None:
        """Wait until every accepted item has a case, and a decision if policy makes it."""
        left, since = -1, _clock.monotonic()
        while missing := len(self._ledger.account(tally.pairs, {}).missing):
            if missing != left:
                left, since = missing, _clock.monotonic()
            elif _clock.monotonic() - since > _NO_PROGRESS_SECONDS:
                screen.say(
                    f"Nothing has moved for {_NO_PROGRESS_SECONDS:.0f} s; {missing:,} items are not settled", "red"
                )
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _take_some_back(self, tally: Tally) -> None:
        """Withdraw a few items of the sample whose cases wait; a reviewer may be faster."""
        waiting = itertools.islice(self._ledger.waiting(tally.pairs), _TAKEN_BACK)
        for item_id in {pair.item_id for pair in waiting}:
            taken_back = await withdraw(self._api, item_id, "the sample's seller changed their mind")
            states = "; ".join(f"in {region} {state}" for region, state in sorted(taken_back.regions.items()))
            screen.say(f"Took item {item_id} back: {states}")

    async def _until_settled(self, tally: Tally) -> Account:
        """The account, once the audit logs have what the topics have; after a bound, as it is."""
        deadline = _clock.monotonic() + _SETTLE_SECONDS
        while True:
            totals = [await self._api.get(f"audit-{region}", "/v1/totals") for region in self._regions]
            await self._observer.catch_up()
            account = self._ledger.account(tally.pairs, {total["region"]: audited(total) for total in totals})
            if account.settled or _clock.monotonic() > deadline:
                return account
            await asyncio.sleep(_POLL_SECONDS)


def journals(folder: Path) -> list[Path]:
    """What was accepted in a folder: the journal of each submission that has not named another place."""
    return [path for path in sorted((folder / _SUBMITTED).glob("*.ndjson")) if not path.name.endswith(_REFUSED)]


def new_record(folder: Path, name: str, journal: Path | None, report: Path | None) -> Record:
    """Where the submission of a file is recorded: as given, else in files of its own, never another's."""
    if journal is None:
        stem = Path(name).name.split(".")[0].strip("-") or "listings"
        own = folder / _SUBMITTED
        own.mkdir(parents=True, exist_ok=True)
        numbered = (own / f"{stem}-{number}.ndjson" for number in itertools.count(1))
        journal = next(path for path in numbered if _is_new(path))
    report = report or journal.with_name(f"{journal.stem}{_REFUSED}")
    return Record(journal, report)


def _is_new(path: Path) -> bool:
    """Take a name for a file; whether nobody has it yet."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def submit_file(
    api: Api,
    name: str,
    options: listings.Options,
    folder: Path,
    *,
    journal: Path | None = None,
    report: Path | None = None,
) -> tuple[Tally, Record]:
    """Submit a file with a progress bar (on a terminal); what was answered, and where it is recorded.

    Interrupted, it says how far it came: the same file may be submitted again, since ids repeat.
    """
    source = listings.Source(name)
    with expected(folder), ExitStack() as files:
        files.callback(source.close)
        lines = listings.read(source, options)
        kept = new_record(folder, name, journal, report)
        for path in kept:
            path.parent.mkdir(parents=True, exist_ok=True)
        accepted, refused = (files.enter_context(path.open("wb")) for path in kept)
        submitter = Submitter(api, journal=accepted, report=refused, progress=files.enter_context(_bar(source)))
        try:
            return await submitter.submit(lines), kept
        except asyncio.CancelledError:
            tally = submitter.tally
            counts = f"{tally.accepted:,} accepted, {tally.refused:,} refused"
            screen.say(
                f"Interrupted: lines up to {tally.last_line:,} were sent ({counts}). Submit the file again to go on:"
                " what was sent stays what it is."
            )
            raise


@contextmanager
def _bar(source: listings.Source) -> Iterator[Callable[[Tally], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn())
    with Progress(*columns, console=screen.console, disable=not screen.console.is_terminal) as progress:
        task = progress.add_task("Submitting", total=source.size, counts="")

        def moved(tally: Tally) -> None:
            counts = f"{tally.accepted:,} accepted, {tally.refused:,} refused"
            progress.update(task, completed=source.position, counts=counts)

        yield moved


def show_refusals(tally: Tally, report: Path, shown: int = _REFUSALS_SHOWN) -> None:
    """The first refusals with line and reason, and where all of them are."""
    for refusal in tally.refusals[:shown]:
        status = f" ({refusal.status})" if refusal.status else ""
        screen.say(f"  line {refusal.number:,}{status}: {screen.clean(refusal.detail, 300)}")
    if tally.refused > shown:
        screen.say(f"  … {tally.refused - shown:,} more")
    if tally.refused:
        screen.say(f"  All of them: {report}")


async def show(outcome: Outcome, api: Api) -> None:
    """The summary."""
    tally, account = outcome.tally, outcome.account
    screen.say()
    counts = ", ".join(f"{count:,} in {region}" for region, count in sorted(tally.regions.items())) or "none"
    items = len({pair.item_id for pair in tally.pairs})
    screen.say("What happened", "bold")
    screen.say(
        f"Accepted {tally.accepted:,} lines: {items:,} different items, {len(tally.pairs):,} pieces of work ({counts})"
    )
    screen.say(f"Refused  {tally.refused:,} lines")
    show_refusals(tally, outcome.kept.report)
    screen.say()
    screen.console.print(_by_queue(account))
    screen.say()
    for fate in (Fate.BY_POLICY, Fate.BY_PEOPLE):
        actions = f"{account.actions[fate, 'approve']:,} approved, {account.actions[fate, 'reject']:,} rejected"
        screen.say(f"{fate.capitalize()}: {account.fates[fate]:,} ({actions})")
    others = (Fate.SUPERSEDED, Fate.WITHDRAWN)
    ended = " ".join(f"{fate.capitalize()}: {account.fates[fate]:,}." for fate in others)
    screen.say(f"Still open: {account.fates[Fate.OPEN]:,}. {ended}")
    letters = ", ".join(f"{count:,} in {region}" for region, count in sorted(outcome.dead_letters.items()) if count)
    screen.say(
        f"Parked: {account.fates[Fate.PARKED]:,} items. Dead-lettered: {account.fates[Fate.DEAD_LETTERED]:,} items"
        f" (records set aside: {letters or 'none'})"
    )
    first = "no new decision" if outcome.first is None else f"first decision after {outcome.first:.1f} s"
    screen.say(
        f"Times: {first}, submitted in {outcome.submitted:.1f} s, all settled and audited after {outcome.settled:.1f} s"
    )
    subject = _one_to_show(account, outcome.kept.journal)
    if subject is not None:
        screen.say()
        for tree in await look.timeline(api, subject, api.running.regions):
            screen.console.print(tree)
    screen.say()
    show_account(account)


def show_account(account: Account) -> None:
    """The proof, and what breaks it."""
    for pair, why in itertools.islice(account.missing.items(), _REFUSALS_SHOWN):
        screen.say(f"  missing: item {pair.item_id} in {pair.region}: {why}", "red")
    for sentence in (*account.doubles[:_REFUSALS_SHOWN], *account.gaps):
        screen.say(f"  {sentence}", "red")
    audit = "" if account.gaps else f"; all {account.events:,} events of the topics are in the audit logs once"
    screen.say(f"Account: {account.proof()}{audit}.", "bold green" if account.holds else "bold red")


def _by_queue(account: Account) -> Table:
    fates = tuple(fate for fate in Fate if fate is not Fate.MISSING)
    table = screen.table("region", "queue", *(str(fate) for fate in fates), right=len(fates))
    for (region, queue), counts in sorted(account.by_queue.items()):
        table.add_row(region, queue, *(f"{counts.get(fate, 0):,}" for fate in fates))
    return table


def _one_to_show(reckoned: Account, journal: Path) -> str | None:
    """A subject to show: one that a person decided, in several regions if there is such a one; else the first."""
    found: dict[int, str] = {}
    for entry in _entries(journal):
        rank = len(entry.regions) if reckoned.by_people.issuperset(entry.pairs()) else 0
        found.setdefault(rank, entry.subject)
    return found[max(found)] if found else None
