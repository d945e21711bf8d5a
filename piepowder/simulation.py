"""Simulated reviewers. They know the truth: the correct action for each item of the sample. Each reviewer leases one
case at a time. A decision depends only on the case, the truth and the seed, not on the reviewer or the time."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from piepowder.case_display import contested_decision, item_case
from piepowder.client import Api, ApiError
from piepowder.review_session import LeasedCase, ReviewSession, ValidReasons, suggested_reasons
from shared.contracts.envelope import subject_of
from shared.runtime.clock import SystemClock
from shared.runtime.retry import wait

MAX_CHOICE: Final = 100  # cases of a pool in one claim
TRUTH: Final = Path("sample", "truth.json")
_IDLE_SECONDS: Final = 0.3
_COUNT_SECONDS: Final = 1.0
_RELEASED_SHARE: Final = 0.04
_WRONG_SHARE: Final = 0.02
_SUSPICIOUS: Final = 0.7
_clock = SystemClock()


class CasePool(Protocol):
    """The cases that simulated reviewers may decide, by region."""

    def count(self, region: str) -> int:
        """The number of cases that wait, as far as it is known."""
        ...

    def next(self, region: str) -> Sequence[str]:
        """The ids of some of them, at most `MAX_CHOICE`; of others in a later call."""
        ...

    def done(self, region: str, case_id: str) -> None:
        """Note that a case does not wait any more."""
        ...


@dataclass(kw_only=True)
class Simulation:
    """Runs `each` simulated reviewers per region until `stop` is set. After `finishing` is set, a reviewer also ends
    when at most `leave` cases wait in its region. `done` counts (region, action).

    With a `pool`, the reviewers touch only its cases; without one, they decide every waiting case of `queues`.
    """

    api: Api
    regions: Sequence[str]
    each: int
    seed: int
    truth: Mapping[str, str]
    leave: int = 0
    queues: Sequence[str] = ()
    team: str = "in_house"
    pool: CasePool | None = None
    done: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)
    finishing: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    stop: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _released: set[str] = field(default_factory=set, init=False)
    _waiting: dict[str, tuple[float, int]] = field(default_factory=dict, init=False)  # region -> (counted at, cases)
    _busy: Counter[str] = field(default_factory=Counter, init=False)  # reviewers at work by region
    _codes: dict[str, ValidReasons] = field(default_factory=dict, init=False)  # by region

    async def run(self) -> None:
        """Run all reviewers to their end."""
        async with asyncio.TaskGroup() as group:
            for region in self.regions:
                for number in range(1, self.each + 1):
                    session = ReviewSession(self.api, region, f"sim-{region}-{number}", self.team, self.queues)
                    group.create_task(self._work(session))

    async def _work(self, session: ReviewSession) -> None:
        refused = 0  # cases of the pool, in a row, that did not wait
        while not self.stop.is_set():
            few = self.leave > 0 and await self._few_wait(session.region)
            chosen = () if few or self.pool is None else self.pool.next(session.region)
            with self._one_more(session.region):
                leased = None if few or (self.pool is not None and not chosen) else await session.claim(only=chosen)
                refused = 0 if leased is not None else refused + len(chosen)
                if leased is not None:
                    await self._handle(session, leased)
            if leased is not None:
                continue
            if self.finishing.is_set() and (self.pool is None or few or refused >= self.pool.count(session.region)):
                return
            if not chosen or refused >= MAX_CHOICE:
                await wait(self.stop, _IDLE_SECONDS)

    @contextmanager
    def _one_more(self, region: str) -> Iterator[None]:
        """Count a reviewer of the region who is at work, so that the others do not decide more than they should."""
        self._busy[region] += 1
        try:
            yield
        finally:
            self._busy[region] -= 1

    async def _few_wait(self, region: str) -> bool:
        """True if at most `leave` cases wait: a count of up to a second ago, minus the claims since then."""
        if self.pool is not None:
            return self.pool.count(region) - self._busy[region] <= self.leave
        counted, waiting = self._waiting.get(region, (-_COUNT_SECONDS, 0))
        if waiting <= self.leave or _clock.monotonic() - counted > _COUNT_SECONDS:
            waiting = await self._count(region)
            counted = _clock.monotonic()
        self._waiting[region] = counted, waiting - 1
        return waiting <= self.leave

    async def _count(self, region: str) -> int:
        response = await self.api.get(f"decision-{region}", "/v1/queues")
        queues = [queue for queue in response["queues"] if not self.queues or queue["queue"] in self.queues]
        return sum(int(queue["waiting"]) for queue in queues)

    async def _handle(self, session: ReviewSession, leased: LeasedCase) -> None:
        pick = random.Random(f"{self.seed}:{leased.id}:release")  # noqa: S311 - a simulation, not a secret
        try:
            if leased.id not in self._released and pick.random() < _RELEASED_SHARE:
                self._released.add(leased.id)
                await session.release(leased, "not my language")
                self.done[session.region, "released"] += 1
            else:
                action = await self._decide(session, leased)
                self._end(session.region, leased)
                self.done[session.region, action] += 1
        except ApiError as error:
            if error.status != 409:  # superseded, or the lease expired
                raise
            self._end(session.region, leased)
            self.done[session.region, "lost"] += 1

    async def _decide(self, session: ReviewSession, leased: LeasedCase) -> str:
        """Decide a case; returns the action. The reason codes are read again if another policy set is in force."""
        codes = self._codes.get(session.region) or await self._read_codes(session)
        action, reasons = choose(leased.case, self.truth, self.seed, codes)
        try:
            await session.decide(leased, action, reasons)
        except ApiError as error:
            if error.slug != "unknown-reason":
                raise
            action, reasons = choose(leased.case, self.truth, self.seed, await self._read_codes(session))
            await session.decide(leased, action, reasons)
        return action

    async def _read_codes(self, session: ReviewSession) -> ValidReasons:
        codes = self._codes[session.region] = await session.reason_codes()
        return codes

    def _end(self, region: str, leased: LeasedCase) -> None:
        if self.pool is not None:
            self.pool.done(region, leased.id)


async def simulate(crew: Simulation, seconds: float | None) -> Mapping[tuple[str, str], int]:
    """Run simulated reviewers until no case waits, or for `seconds`; returns the counts by (region, action)."""
    if seconds is None:
        crew.finishing.set()
    working = asyncio.create_task(crew.run())
    await asyncio.wait([working], timeout=seconds)
    crew.stop.set()
    await working
    return crew.done


def read_truth(folder: Path) -> dict[str, str]:
    """The truth of the last sample in a folder, by `truth_key`; empty without a sample."""
    path = folder / TRUTH
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}


def truth_key(subject: str, version: int | None) -> str:
    """The key of an item in the truth."""
    return f"{subject}@{'' if version is None else version}"


def summary(done: Mapping[tuple[str, str], int]) -> str:
    """The counts as text."""
    return ", ".join(f"{region} {count:,} {action}" for (region, action), count in sorted(done.items())) or "no case"


def choose(case: Mapping[str, Any], truth: Mapping[str, str], seed: int, codes: ValidReasons) -> tuple[str, list[str]]:
    """The action and reasons of a simulated reviewer; the reasons are among the valid `codes`.

    The action follows the truth or, for an unknown item, the seller and the scores; a small share is wrong on purpose.
    On an appeal, a decision with another action is overturned.
    """
    pick = random.Random(f"{seed}:{case['case_id']}")  # noqa: S311 - a simulation, not a secret
    subject, item = subject_of(case["platform"], case["kind"], case["subject_id"]), item_case(case)
    action = truth.get(truth_key(subject, item.get("version"))) or _guess(item, pick)
    if pick.random() < _WRONG_SHARE:
        action = "approve" if action == "reject" else "reject"
    reasons = suggested_reasons(case, codes) if action == "reject" else []
    if (contested := contested_decision(case)) is None:
        return action, reasons
    return ("uphold", []) if action == contested["action"] else ("overturn", reasons)


def _guess(case: Mapping[str, Any], pick: random.Random) -> str:
    item = case.get("item") or {}
    seller = item.get("seller") or {}
    bad_seller = (seller.get("rejected") or 0) > 0.3 * max(1, seller.get("listings") or 0)
    suspicious = max((item.get("scores") or {}).values(), default=0.0) > _SUSPICIOUS
    return "reject" if bad_seller or suspicious or pick.random() < 0.15 else "approve"
