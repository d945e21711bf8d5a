"""The decision service's store in memory, and the use cases on it.

`tests/contract/test_decision_store.py` runs the same tests on this store and on PostgreSQL.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from datetime import datetime

import msgspec

from services.decision.domain.appeals import AppealedCase
from services.decision.domain.cases import CLAIMED, OPEN_STATES, SUPERSEDED, WAITING, WITHDRAWN, Case, Decision
from services.decision.domain.ingest import BatchChanges, CaseMessage, NewestVersion, ReceivedCase, Snapshot
from services.decision.domain.leases import ClaimCommand, LeaseLimits, OpenLeases
from services.decision.handlers.decisions import DecideCases
from services.decision.handlers.ingest import IngestCases
from services.decision.handlers.leases import Lease, LeaseCases
from services.decision.store.reads import CaseWithDecisions, Urgency
from shared.contracts.envelope import Encoded
from shared.kafka.stored_positions import Moves
from shared.runtime.clock import ManualClock, from_text
from shared.runtime.errors import Transient
from shared.validation.faults import IN_FLIGHT
from tests.support.decision.cases import NOON
from tests.support.decision.domain import reasons_in_force, records


class MemoryTransaction:
    """A transaction on a `MemoryStore`, for every port: its changes are stored when it ends without an exception."""

    first_token = 0
    incarnation = 0

    def __init__(self, store: "MemoryStore") -> None:
        self._clock = store.clock
        self.cases = dict(store.cases)
        self.decided = {case_id: list(decisions) for case_id, decisions in store.decided.items()}
        self.newest = dict(store.newest)
        self.withdrawals = set(store.withdrawals)
        self.queues = set(store.queues)
        self.tallies = copy(store.tallies)
        self.published = list(store.published)

    async def advance(self, moves: Moves) -> None:
        """Positions are not part of this store."""

    async def snapshot(self, batch: Sequence[CaseMessage]) -> Snapshot:
        opened = [message.opened for message in batch if isinstance(message, ReceivedCase)]
        appealed = {case.appeal.decision.case_id for case in opened if case.appeal is not None}
        return Snapshot(
            now=self._clock.now(),
            newest={m.subject: self._newest(m.subject) for m in batch if m.subject in self.newest},
            stored={case_id: self.cases[case_id].event_id for case_id in map(_case_id, batch) if case_id in self.cases},
            withdrawn_early={case.case_id for case in opened} & self.withdrawals,
            appealed_cases={case_id: self._appealed(case_id) for case_id in appealed},
        )

    def _newest(self, subject: str) -> NewestVersion:
        newest = self.newest[subject]
        case = self.cases[newest.case_id]
        correlation_id = case.correlation_id if case.state in OPEN_STATES else None
        return msgspec.structs.replace(newest, open_correlation_id=correlation_id)

    def _appealed(self, case_id: str) -> AppealedCase:
        contested = [case.opened.appeal for case in self.cases.values() if case.state in OPEN_STATES]
        has_open_appeal = case_id in {appeal.decision.case_id for appeal in contested if appeal is not None}
        return AppealedCase(len(self.decided.get(case_id, [])), has_open_appeal)

    async def apply(self, changes: BatchChanges, snapshot: Snapshot) -> None:  # noqa: ARG002 - PostgreSQL needs the locked subjects
        for new in changes.cases:
            received = new.received
            if received.opened.case_id in self.cases:
                raise Transient("another writer has added this case just now")
            self.cases[received.opened.case_id] = Case(
                case_id=received.opened.case_id,
                subject=received.subject,
                event_id=received.event_id,
                correlation_id=received.correlation_id,
                opened=received.opened,
                state=new.state,
                superseded_by=new.superseded_by,
            )
        await self.add_decisions(changes.decisions)
        self.newest |= changes.newest
        for case_id, by in changes.superseded.items():
            self._end(case_id, SUPERSEDED, by)
        for case_id in changes.withdrawn:
            self._end(case_id, WITHDRAWN, None)
        self.withdrawals = (self.withdrawals | changes.early) - changes.applied

    def _end(self, case_id: str, state: str, superseded_by: str | None) -> None:
        self.cases[case_id] = msgspec.structs.replace(
            self.cases[case_id], state=state, superseded_by=superseded_by, claim_key=None, claim_body=None
        )

    async def add_queues(self, queues: Collection[str]) -> None:
        self.queues |= set(queues)

    async def case(self, case_id: str) -> tuple[Case, datetime] | None:
        found = self.cases.get(case_id)
        return None if found is None else (found, self._clock.now())

    async def claimed_under(self, key: str) -> tuple[Case, datetime] | None:
        return next(((case, self._clock.now()) for case in self.cases.values() if case.claim_key == key), None)

    async def next_case(
        self, queues: Sequence[str], reviewer: str, *, only: Sequence[str] = (), skipped: Sequence[str] = ()
    ) -> tuple[Case, datetime] | None:
        allowed = [
            case
            for case in self.cases.values()
            if case.state == WAITING and case.opened.queue in queues and not _is_appeal_against(case, reviewer)
            if (not only or case.case_id in only) and case.case_id not in skipped
        ]
        return (min(allowed, key=urgency), self._clock.now()) if allowed else None

    async def open_leases(self, reviewer: str, client: str, *, alone: bool) -> OpenLeases:  # noqa: ARG002 - one transaction at a time
        now = self._clock.now()
        ends = [
            (case.reviewer == reviewer, case.claim_client == client, case.lease_until - now)
            for case in self.cases.values()
            if case.state == CLAIMED and case.lease_until is not None and case.lease_until > now
        ]
        own = [end.total_seconds() for by_reviewer, by_client, end in ends if by_reviewer or by_client]
        return OpenLeases(sum(end[0] for end in ends), sum(end[1] for end in ends), min(own, default=0.0))

    async def expired(self, limit: int) -> list[tuple[Case, datetime]]:
        now = self._clock.now()
        found = [
            (case.lease_until, case)
            for case in self.cases.values()
            if case.state == CLAIMED and case.lease_until is not None and case.lease_until <= now
        ]
        return [(case, now) for _, case in sorted(found, key=lambda pair: pair[0])[:limit]]

    async def save(self, cases: Sequence[Case]) -> None:
        self.cases |= {case.case_id: case for case in cases}
        keys = Counter(case.claim_key for case in self.cases.values() if case.claim_key is not None)
        if keys and max(keys.values()) > 1:
            raise IN_FLIGHT.with_message("Another claim with the same Idempotency-Key is in progress.")

    async def first_decision(self, case_id: str) -> Decision | None:
        return next(iter(self.decided.get(case_id, [])), None)

    async def current_decision(self, case_id: str) -> Decision | None:
        return next(reversed(self.decided.get(case_id, [])), None)

    async def add_decisions(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            self.decided.setdefault(decision.case_id, []).append(decision)

    async def tally(self, counts: Mapping[str, int]) -> None:
        self.tallies.update(counts)

    async def publish(self, published: Sequence[tuple[str, Encoded]]) -> None:
        self.published += published


class MemoryStore:
    """A `services.decision.store.Store` in memory, with one transaction at a time."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON)
        self.cases: dict[str, Case] = {}
        self.decided: dict[str, list[Decision]] = {}
        self.newest: dict[str, NewestVersion] = {}
        self.withdrawals: set[str] = set()
        self.queues: set[str] = set()
        self.tallies: Counter[str] = Counter()
        self.published: list[tuple[str, Encoded]] = []
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        """A transaction for any port."""
        async with self._one_at_a_time:
            transaction = MemoryTransaction(self)
            yield transaction
            vars(self).update({name: value for name, value in vars(transaction).items() if name != "_clock"})

    ingest = leases = decisions = transaction

    async def case(self, case_id: str) -> CaseWithDecisions | None:
        """A case and its decisions."""
        found = self.cases.get(case_id)
        return None if found is None else CaseWithDecisions(found, self.decided.get(case_id, []))

    async def concerned(self, case: Case) -> list[CaseWithDecisions]:
        """The case that an appeal is about."""
        appeal = case.opened.appeal
        found = None if appeal is None else await self.case(appeal.decision.case_id)
        return [] if found is None else [found]

    async def queue_names(self, wanted: Collection[str] = ()) -> list[str]:  # noqa: ARG002 - nothing is cached
        """All queues that have had a case."""
        return sorted(self.queues)

    async def totals(self) -> Counter[str]:
        """The tallies."""
        return self.tallies


def urgency(case: Case) -> Urgency:
    """The place of a case in its queue."""
    return case.opened.priority, from_text(case.opened.due_at), case.case_id


def _case_id(message: CaseMessage) -> str:
    return message.opened.case_id if isinstance(message, ReceivedCase) else message.case_id


def _is_appeal_against(case: Case, reviewer: str) -> bool:
    """True if the case is an appeal against a decision of this reviewer."""
    return case.opened.appeal is not None and case.opened.appeal.decision.reviewer == reviewer


class MemoryService:
    """The use cases on a store in memory; `woken` counts the calls that wake the outbox relay."""

    def __init__(self, limits: LeaseLimits = LeaseLimits()) -> None:  # noqa: B008 - immutable
        self.store = MemoryStore()
        self.clock = self.store.clock
        self.woken = 0
        self.ingest = IngestCases(self.store.ingest, region="eu", wake=self._wake)
        self.leases = LeaseCases(self.store.leases, region="eu", wake=self._wake, limits=limits)
        self.reasons = reasons_in_force()
        self.decisions = DecideCases(
            self.store.decisions, region="eu", wake=self._wake, codes=lambda: self.reasons.codes
        )

    def _wake(self) -> None:
        self.woken += 1

    async def open(self, *messages: CaseMessage) -> None:
        """Ingest these messages as one batch."""
        await self.ingest.handle(records(messages))

    async def claim(self, reviewer: str = "r-1", *, seconds: int = 300, key: str | None = None) -> Lease | None:
        """Claim a case of the general queue."""
        return await self.leases.claim(["general"], ClaimCommand(reviewer, "in_house", seconds, key, key))

    async def claimed(self, reviewer: str = "r-1", *, seconds: int = 300) -> Lease:
        """Claim a case; fails if no case is waiting."""
        lease = await self.claim(reviewer, seconds=seconds)
        assert lease is not None
        return lease

    @property
    def event_types(self) -> list[str]:
        """The short types of the published events, in order."""
        types = [dict(event.headers)["ce_type"].decode() for _, event in self.store.published]
        return [event_type.removeprefix("piepowder.").removesuffix(".v1") for event_type in types]
