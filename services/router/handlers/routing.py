"""Routes submissions to cases: items, notices and appeals open a case, a withdrawal closes one.

One batch is routed by the rules in force at its start and sent to Kafka at once. A withdrawal is sent to the same
topic with the same key as its case, so it never overtakes the case. Event ids derive from the incoming event and, for a
case, from the rules, so a batch that is repeated under the same rules sends the same events again. Under other rules it
sends other openings of the same cases, which the decision service ignores.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import Counter as Metric

from services.router import metrics
from services.router.domain.routing import (
    SOURCE,
    RulesInForce,
    Submitted,
    opening_id,
    require_region,
    route,
    route_appeal,
    route_notice,
    withdraw,
)
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
    """Handles batches of a region's submissions topic; `rules` raises Transient while no rules are in force."""

    def __init__(self, *, region: str, rules: Callable[[], RulesInForce], producer: Producer, clock: Clock) -> None:
        self._region = region
        self._rules = rules
        self._producer = producer
        self._clock = clock
        self._topic = topics.cases(region)
        self._source = f"{SOURCE}/{region}"
        self._counters: dict[tuple[str, str], Metric] = {}
        self._withdrawals = metrics.WITHDRAWALS_ROUTED.labels(region)

    def decode(self, received: RawRecord) -> Event[Any]:
        """Decode a record; raises Poison if it does not name this region or its key is not its subject."""
        event = envelope.decode(received.headers, received.key, received.value, region=self._region)
        data = event.data
        if isinstance(data, Submitted):
            require_region(data, self._region)
            subject = subject_of(data.platform, data.kind, data.subject_id)
            if subject != event.attributes.subject:
                raise Poison(f"ce_subject is {event.attributes.subject!r}, the item's subject {subject!r}")
        return event

    async def handle(self, batch: Sequence[Received[Event[Any]]]) -> None:
        """Open a case for each item, notice and appeal, and forward each withdrawal.

        Raises Poison for an event that cannot be routed, and Transient if Kafka did not accept the cases, or if the
        model in force does not have the region.
        """
        model, policy_set = self._rules()
        time = to_text(self._clock.now())
        records: list[Record] = []
        opened: Counter[tuple[str, str]] = Counter()
        policy_errors: Counter[str] = Counter()
        withdrawals = 0
        for _, event in batch:
            if isinstance(event.data, ItemWithdrawn):
                case_withdrawn = withdraw(event.data, self._region)
                event_id = ids.event_id(event.attributes.id, CASE_WITHDRAWN)
                records.append(self._record(event_id, event.attributes, CASE_WITHDRAWN, case_withdrawn, time))
                withdrawals += 1
                continue
            if isinstance(event.data, ItemSubmitted):
                case = route(event.data, self._region, policy_set, model)
            elif isinstance(event.data, NoticeSubmitted):
                case = route_notice(event.data, self._region, policy_set, model)
            elif isinstance(event.data, AppealSubmitted):
                case = route_appeal(event.data, self._region, policy_set, model)
            else:  # an event that needs no case
                continue
            event_id = opening_id(event.attributes.id, CASE_OPENED, case.trace)
            records.append(self._record(event_id, event.attributes, CASE_OPENED, case, time))
            opened[case.queue, case.verdict] += 1
            if case.trace.errors:
                policy_errors.update(condition.partition("/")[0] for condition in case.trace.errors)
        if records:
            await self._producer.send(records)
        for (queue, verdict), n in opened.items():
            self._counter(queue, verdict).inc(n)
        for policy, n in policy_errors.items():
            metrics.POLICY_ERRORS.labels(policy).inc(n)
        if withdrawals:
            self._withdrawals.inc(withdrawals)

    def _record(self, event_id: str, cause: Attributes, kind: str, case: Struct, time: str) -> Record:
        attributes = Attributes(
            event_id,
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

    def _counter(self, queue: str, verdict: str) -> Metric:
        counter = self._counters.get((queue, verdict))
        if counter is None:
            counter = self._counters[queue, verdict] = metrics.CASES_ROUTED.labels(self._region, queue, verdict)
        return counter
