"""Items, notices and appeals in, cases out: a batch is routed by what is in force when it begins, and sent in one go.

A withdrawal goes the same way, through the same topics and in its subject's order, so that it never overtakes the case
that it ends. Ids derive from the event that came, so a batch that is met again sends the same again.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import Counter as Metric

from services.router import metrics
from services.router.domain import SOURCE, InForce, route, route_appeal, route_notice, withdraw
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes, Event, subject_of
from shared.contracts.events import (
    CASE_OPENED,
    CASE_WITHDRAWN,
    AppealSubmitted,
    ItemSubmitted,
    ItemWithdrawn,
    NoticeSubmitted,
    Struct,
)
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.producer import Producer, Record, record
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Poison


class RouteSubmissions:
    """Handles batches of a region's submissions topic; `in_force` raises Transient while something is missing."""

    def __init__(self, *, region: str, in_force: Callable[[], InForce], producer: Producer, clock: Clock) -> None:
        self._region = region
        self._in_force = in_force
        self._producer = producer
        self._clock = clock
        self._topic = topics.cases(region)
        self._source = f"{SOURCE}/{region}"
        self._counters: dict[tuple[str, str], Metric] = {}
        self._withdrawals = metrics.WITHDRAWALS_ROUTED.labels(region)

    def decode(self, received: RawRecord) -> Event[Any]:
        """The event in a record; raises Poison for one that is not this region's, or whose key is not its subject."""
        event = envelope.decode(received.headers, received.key, received.value, region=self._region)
        data = event.data
        if isinstance(data, ItemSubmitted | ItemWithdrawn | NoticeSubmitted | AppealSubmitted):
            subject = subject_of(data.platform, data.kind, data.subject_id)
            if subject != event.attributes.subject:
                raise Poison(f"ce_subject is {event.attributes.subject!r}, the item's subject {subject!r}")
        return event

    async def handle(self, batch: Sequence[Received[Event[Any]]]) -> None:
        """Open a case for each item, notice and appeal, and pass each withdrawal on; raises Poison for what cannot be
        routed, Transient when not sent."""
        model, policy_set = self._in_force()
        time = to_text(self._clock.now())
        records: list[Record] = []
        opened: Counter[tuple[str, str]] = Counter()
        erred: Counter[str] = Counter()
        withdrawals = 0
        for _, event in batch:
            if isinstance(event.data, ItemWithdrawn):
                passed_on = withdraw(event.data, self._region)
                records.append(self._record(event.attributes, CASE_WITHDRAWN, passed_on, time))
                withdrawals += 1
                continue
            if isinstance(event.data, ItemSubmitted):
                case = route(event.data, self._region, policy_set, model)
            elif isinstance(event.data, NoticeSubmitted):
                case = route_notice(event.data, self._region, policy_set, model)
            elif isinstance(event.data, AppealSubmitted):
                case = route_appeal(event.data, self._region, policy_set, model)
            else:  # of the item's life, but not the router's to act on
                continue
            records.append(self._record(event.attributes, CASE_OPENED, case, time))
            opened[case.queue, case.verdict] += 1
            if case.trace.errors:
                erred.update(condition.partition("/")[0] for condition in case.trace.errors)
        if records:
            await self._producer.send(records)
        for lane, n in opened.items():
            self._counter(lane).inc(n)
        for policy, n in erred.items():
            metrics.POLICY_ERRORS.labels(policy).inc(n)
        if withdrawals:
            self._withdrawals.inc(withdrawals)

    def _record(self, cause: Attributes, kind: str, case: Struct, time: str) -> Record:
        attributes = Attributes(
            ids.event_id(cause.id, kind),
            kind,
            self._source,
            time,
            cause.subject,
            self._region,
            cause.correlation_id,
            cause.id,
            cause.traceparent,
        )
        return record(self._topic, envelope.encode(attributes, case))

    def _counter(self, lane: tuple[str, str]) -> Metric:
        counter = self._counters.get(lane)
        if counter is None:
            counter = self._counters[lane] = metrics.CASES_ROUTED.labels(self._region, *lane)
        return counter
