"""The main job (`piepowder run`): a file is submitted, simulated reviewers decide the cases, and an account compares
the accepted items with Kafka's topics and the audit logs, without trust in the services' own counts."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Final

import msgspec

from deploy.local import sample
from deploy.local.account import audit_counts_of, queue_table, show_account
from deploy.local.accounting import Account, ItemOutcome
from deploy.local.run_cases import RunCases
from deploy.local.topic_reader import TopicReader
from deploy.local.up import RunningSystem, advice
from piepowder import console_output, submission_preview, timeline
from piepowder.client import Api
from piepowder.dead_letters import DeadLetterCounts
from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import ListingImport
from piepowder.profile import read_local
from piepowder.progress import ProgressReport, counting
from piepowder.simulation import TRUTH, Simulation, read_truth, summary
from piepowder.submission_files import SubmissionFiles, open_listings, read_journal, submit_listings
from piepowder.tally import RegionItem, Tally, show_refusals
from piepowder.withdraw import withdraw
from shared.runtime.clock import SystemClock
from shared.runtime.private_files import make_private_folder, open_private
from shared.runtime.retry import wait
from shared.runtime.user_errors import file_errors

_POLL_SECONDS: Final = 0.4
_NO_PROGRESS_SECONDS: Final = 90.0
_SETTLE_SECONDS: Final = 90.0
_PROGRESS_SECONDS: Final = 5.0
_WITHDRAWALS: Final = 3
_clock = SystemClock()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The job: `file` with its options, or a sample of `count` lines from `seed`; simulated `reviewers` in each region,
    who decide only cases of this job, leave `leave` of them in the region for the person, and work for at most
    `review_seconds`."""

    folder: Path
    file: str | None
    options: FileOptions
    count: int
    seed: int
    reviewers: int
    leave: int
    review_seconds: float


class JobResult(msgspec.Struct, frozen=True):
    """The result; `first_decision`, `submitted` and `settled` are seconds since the start of the submission.

    `new`: the accepted items that were not in the topics before.
    """

    tally: Tally
    files: SubmissionFiles
    account: Account
    first_decision: float | None
    submitted: float
    settled: float
    dead_letters: Mapping[str, DeadLetterCounts]
    new: frozenset[RegionItem]


def write_sample(folder: Path, count: int, seed: int) -> str:
    """Write the sample's lines and its truth; returns the name of the file of lines."""
    lines = folder / TRUTH.with_name("listings.ndjson")
    with file_errors(folder):
        make_private_folder(lines.parent)
        with open_private(lines, "wb") as file:
            for line in sample.make(count, seed):
                file.write(line.body + b"\n")
        with open_private(folder / TRUTH, "wb") as file:
            file.write(msgspec.json.encode(sample.truth(sample.make(count, seed))))
    return str(lines)


def run(job: Job, *, nodes: int, regions: Sequence[str], stay: bool) -> bool:
    """Start all, do the job and show the result; with `stay`, keep running until interrupted. Returns True if
    the account holds. Raises `UserError` when the file cannot be used, when a process does not start, or when one ends
    for good."""
    with ExitStack() as stack:
        listings = None
        if job.file is not None:
            listings = stack.enter_context(open_listings(job.file, job.options))
            submission_preview.show_preview(listings)
            submission_preview.require_confirmation(listings)
        began = _clock.monotonic()
        running = RunningSystem(job.folder, nodes=nodes, regions=regions)
        with running.live_table():
            stack.enter_context(running)
        console_output.show(f"Ready after {_clock.monotonic() - began:.1f} s")
        result = asyncio.run(main_job(running, job, listings))
        if stay:
            with suppress(KeyboardInterrupt):
                _show_next_steps(running, job.folder)
                running.watch()
        return result.account.holds


def _show_next_steps(running: RunningSystem, folder: Path) -> None:
    queues = f"{running.system.url('decision', running.system.regions[0])}/v1/queues"
    console_output.show()
    console_output.console.print(running.table())
    console_output.show("Everything keeps running until Ctrl-C. In another terminal, try:", "bold")
    console_output.show(f'  curl -sS -H "Authorization: Bearer $(cat {folder / "key"})" {queues}')
    console_output.show(f'  eval "$({advice("env", folder)})"    # addresses and key as variables')
    console_output.show(f"  {advice('status', folder)}")
    console_output.show(f"  {advice('review', folder)}")


async def main_job(running: RunningSystem, job: Job, listings: ListingImport | None) -> JobResult:
    """Submit `listings` (None: the sample), review, wait for all outcomes, compare them. Raises `UserError` when a
    process ends for good."""
    async with AsyncExitStack() as stack:
        if listings is None:
            name = write_sample(job.folder, job.count, job.seed)
            listings = stack.enter_context(open_listings(name, job.options))
        api = await stack.enter_async_context(Api(read_local(job.folder)))
        work = asyncio.ensure_future(_Work(api, listings, job).run())
        watching = asyncio.ensure_future(_watch(running))
        try:
            await asyncio.wait([work, watching], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                watching.result()
            result = await work
            await show(result, api)
            return result
        finally:
            work.cancel()
            watching.cancel()
            await asyncio.wait([work, watching])


async def _watch(running: RunningSystem) -> None:
    while True:
        if failures := running.failures():
            raise failures[0]
        await asyncio.sleep(0.5)


class _Work:
    def __init__(self, api: Api, listings: ListingImport, job: Job) -> None:
        self._api = api
        self._regions = api.profile.regions
        self._listings = listings
        self._job = job
        self._tally = Tally()
        self._ledger = RunCases(self._tally)
        self._reader = TopicReader(api.profile.bootstrap(), self._regions, self._ledger)
        self._reviewed = asyncio.Event()
        self._started = 0.0
        self._first_decision: float | None = None

    async def run(self) -> JobResult:
        job = self._job
        try:
            await self._reader.catch_up()
            before, known, self._started = self._ledger.decided, self._ledger.submitted(), _clock.monotonic()
            crew = Simulation(
                api=self._api,
                regions=self._regions,
                each=job.reviewers,
                seed=job.seed,
                truth=read_truth(job.folder) if job.file is None else {},
                leave=job.leave,
                pool=self._ledger,
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_topics(before))
                reviewing = group.create_task(crew.run())
                tally, files = await submit_listings(self._api, self._listings, job.folder, tally=self._tally)
                submitted = self._elapsed()
                console_output.show(f"Submitted {tally.accepted + tally.refused:,} lines in {submitted:.1f} s")
                await self._wait_routed(tally)
                console_output.show(f"All items have a case, and policy has decided, after {self._elapsed():.1f} s")
                if job.file is None:
                    await self._withdraw_some(tally)
                crew.finishing.set()
                await self._wait_reviewed(crew, reviewing)
                crew.stop.set()
                await asyncio.wait([reviewing])
                if job.reviewers:
                    console_output.show(f"The reviewers finished after {self._elapsed():.1f} s: {summary(crew.done)}")
                else:
                    console_output.show("No simulated reviewer decides these items: their cases wait for a person")
                self._reviewed.set()
            account = await self._wait_settled(tally)
            return JobResult(
                tally,
                files,
                account,
                self._first_decision,
                submitted,
                self._elapsed(),
                self._ledger.dead_letters,
                frozenset(tally.items - known),
            )
        finally:
            await self._reader.close()

    def _elapsed(self) -> float:
        return _clock.monotonic() - self._started

    async def _read_topics(self, before: int) -> None:
        while not self._reviewed.is_set():
            await self._reader.catch_up()
            if self._first_decision is None and self._ledger.decided > before:
                self._first_decision = self._elapsed()
                console_output.show(f"First decision after {self._first_decision:.1f} s")
            await wait(self._reviewed, _POLL_SECONDS)

    async def _wait_routed(self, tally: Tally) -> None:
        """Wait until every accepted item has a case, and its decision if policy decides it."""
        with counting("Opening and deciding cases", "settled", total=len(tally.items)) as count:
            await self._wait_counted(tally, count)

    async def _wait_counted(self, tally: Tally, count: ProgressReport) -> None:
        left, since = -1, _clock.monotonic()
        while missing := len(self._ledger.account(tally.items, {}).missing):
            count(len(tally.items) - missing)
            if missing != left:
                left, since = missing, _clock.monotonic()
            elif _clock.monotonic() - since > _NO_PROGRESS_SECONDS:
                console_output.show(
                    f"No progress for {_NO_PROGRESS_SECONDS:.0f} s; {missing:,} items are not settled", "red"
                )
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _wait_reviewed(self, crew: Simulation, reviewing: "asyncio.Task[None]") -> None:
        """Wait until the reviewers end, or their time; show their progress."""
        until = _clock.monotonic() + self._job.review_seconds
        if self._job.reviewers:
            console_output.show(
                f"{self._job.reviewers} simulated reviewers in each region decide the cases, for up to"
                f" {self._job.review_seconds:.0f} s"
            )
        while not reviewing.done() and (left := until - _clock.monotonic()) > 0:
            await asyncio.wait([reviewing], timeout=min(left, _PROGRESS_SECONDS))
            if not reviewing.done():
                console_output.show(f"  {sum(crew.done.values()):,} cases so far, after {self._elapsed():.0f} s")

    async def _withdraw_some(self, tally: Tally) -> None:
        """Withdraw a few items of the sample whose cases wait; a reviewer may decide them first."""
        waiting = itertools.islice(self._ledger.waiting(tally.items), _WITHDRAWALS)
        for item_id in {item.item_id for item in waiting}:
            withdrawn = await withdraw(self._api, item_id, "the sample's seller changed their mind")
            states = "; ".join(f"in {region} {state}" for region, state in sorted(withdrawn.regions.items()))
            console_output.show(f"Withdrew item {item_id}: {states}")

    async def _wait_settled(self, tally: Tally) -> Account:
        """The account when the audit logs have all events of the topics, or after a time limit."""
        deadline = _clock.monotonic() + _SETTLE_SECONDS
        with counting("Waiting for the audit logs", "events compared") as count:
            while True:
                counts = await audit_counts_of(self._api, self._regions)
                await self._reader.catch_up()
                account = self._ledger.account(tally.items, counts)
                if account.settled or _clock.monotonic() > deadline:
                    return account
                count(account.events)
                await asyncio.sleep(_POLL_SECONDS)


async def show(result: JobResult, api: Api) -> None:
    """Show the summary."""
    tally, account = result.tally, result.account
    console_output.show()
    console_output.show("What happened", "bold")
    console_output.show(f"Accepted {tally.accepted:,} lines: {describe_items(tally.items, result.new)}")
    console_output.show(f"Refused  {tally.refused:,} lines")
    show_refusals(tally, result.files.report)
    console_output.show()
    console_output.console.print(queue_table(account))
    console_output.show()
    for outcome in (ItemOutcome.BY_POLICY, ItemOutcome.BY_PEOPLE):
        actions = f"{account.actions[outcome, 'approve']:,} approved, {account.actions[outcome, 'reject']:,} rejected"
        console_output.show(f"{outcome.capitalize()}: {account.outcomes[outcome]:,} ({actions})")
    others = (ItemOutcome.SUPERSEDED, ItemOutcome.WITHDRAWN)
    ended = " ".join(f"{outcome.capitalize()}: {account.outcomes[outcome]:,}." for outcome in others)
    console_output.show(f"Still open: {account.outcomes[ItemOutcome.OPEN]:,}. {ended}")
    outcomes = (ItemOutcome.PARKED, ItemOutcome.DEAD_LETTERED, ItemOutcome.DISCARDED)
    console_output.show(
        " ".join(f"{outcome.capitalize()}: {account.outcomes[outcome]:,} items." for outcome in outcomes)
    )
    for region, counts in sorted(result.dead_letters.items()):
        console_output.show(f"Dead letters in {region}: {counts}.")
    first = (
        "no new decision" if result.first_decision is None else f"first decision after {result.first_decision:.1f} s"
    )
    console_output.show(
        f"Times: {first}, submitted in {result.submitted:.1f} s, all settled and audited after {result.settled:.1f} s"
    )
    subject = _example_subject(account, result.files.journal)
    if subject is not None:
        console_output.show()
        for tree in await timeline.timeline(api, subject, api.profile.regions):
            console_output.console.print(tree)
    console_output.show()
    show_account(account, has_submitted=bool(tally.accepted or tally.refused))


def describe_items(items: Collection[RegionItem], new: Collection[RegionItem]) -> str:
    """The number of different items, and of the cases that they open: one in each region of an item.

    An item that was submitted before, as `new` does not have it, opens no case.
    """
    by_region = Counter(item.region for item in new)
    regions = ", ".join(f"{count:,} in {region}" for region, count in sorted(by_region.items()))
    different = len({item.item_id for item in items})
    repeated = different - len({item.item_id for item in new})
    before = f" ({repeated:,} submitted before)" if repeated else ""
    items_text = f"{different:,} different {'item' if different == 1 else 'items'}{before}"
    return f"{items_text}, {len(new):,} new {'case' if len(new) == 1 else 'cases'}{f' ({regions})' if regions else ''}"


def _example_subject(account: Account, journal: Path) -> str | None:
    """A subject to show: decided by people, in several regions if possible; else the first one."""
    found: dict[int, str] = {}
    for entry in read_journal(journal):
        rank = len(entry.regions) if account.by_people.issuperset(entry.items()) else 0
        found.setdefault(rank, entry.subject)
    return found[max(found)] if found else None
