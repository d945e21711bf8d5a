"""Ingest of cases and withdrawals from the router."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from services.decision import metrics
from services.decision.domain.cases import CLOSED, DECIDED, SUPERSEDED, WITHDRAWN
from services.decision.domain.ingest import BatchChanges, CaseMessage, Snapshot, ingest
from services.decision.handlers.base import PublishPort, UseCases
from shared.contracts import events
from shared.kafka.consumer import Received
from shared.kafka.stored_positions import NO_MOVES, Moves


class IngestPort(PublishPort, Protocol):
    """One transaction of an ingest; see `services.decision.store.ingest`."""

    incarnation: int

    async def advance(self, moves: Moves) -> None: ...

    async def snapshot(self, batch: Sequence[CaseMessage]) -> Snapshot: ...

    async def apply(self, changes: BatchChanges, snapshot: Snapshot) -> None: ...

    async def tally(self, counts: Mapping[str, int]) -> None: ...

    async def add_queues(self, queues: Collection[str]) -> None: ...


class IngestCases(UseCases[IngestPort]):
    """Stores received cases; decides those with a policy's verdict; ends those that were withdrawn."""

    def __init__(
        self, begin: Callable[[], AbstractAsyncContextManager[IngestPort]], *, region: str, wake: Callable[[], None]
    ) -> None:
        super().__init__(begin, region=region, wake=wake)
        self._queues: set[str] = set()
        self._incarnation = 0

    async def handle(self, batch: Sequence[Received[CaseMessage]], moves: Moves = NO_MOVES) -> None:
        """Ingest a batch and move the positions, all or nothing. Repeated events change nothing.

        Raises PositionChangedError.
        """
        messages = [record.message for record in batch]
        async with self._begin() as transaction:
            if transaction.incarnation != self._incarnation:  # the restored database may not have these queues
                self._queues, self._incarnation = set(), transaction.incarnation
            await transaction.advance(moves)
            snapshot = await transaction.snapshot(messages)
            changes = ingest(self._region, messages, snapshot)
            await transaction.apply(changes, snapshot)
            await self._publish(transaction, changes.events)
            await transaction.tally(_tallies(changes))
            queues = {case.received.opened.queue for case in changes.cases}
            await transaction.add_queues(queues - self._queues)
        self._queues |= queues
        if changes.events:
            self._wake()
        self._count(changes, snapshot.now)

    def _count(self, changes: BatchChanges, now: datetime) -> None:
        age = metrics.DECISION_AGE.labels(self._region, "policy")
        decided = [case.received for case in changes.cases if case.state == DECIDED]
        for case in decided:
            age.observe((now - case.received_at).total_seconds())
        for (queue, action), n in Counter((case.opened.queue, case.opened.verdict) for case in decided).items():
            metrics.DECISIONS.labels(self._region, queue, action, "policy").inc(n)
        closed = Counter(event.data.reason for event in changes.events if isinstance(event.data, events.CaseClosed))
        for reason, n in closed.items():
            metrics.CASES_CLOSED.labels(self._region, reason).inc(n)
        metrics.CASES_REOPENED.labels(self._region).inc(changes.reopened)


def _tallies(changes: BatchChanges) -> Counter[str]:
    tallies = Counter(f"policy/{decision.action}" for decision in changes.decisions)
    tallies[DECIDED] = len(changes.decisions)
    tallies.update(case.state for case in changes.cases if case.state in (SUPERSEDED, WITHDRAWN, CLOSED))
    tallies.update({SUPERSEDED: len(changes.superseded), WITHDRAWN: len(changes.withdrawn)})
    return +tallies
