"""The use cases: cases as they come from the router, and what reviewers do with them.

Each is one transaction that holds the state's change and the events that tell it; when it has committed, the relay is
woken. No offsets are committed here, and every use case may be met again: a batch by its inbox, a reviewer's act by its
lease token.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from services.decision import domain
from services.decision.domain import Arrival, Case, Decision, Refused
from services.decision.store import Store, Work
from shared import events, metrics
from shared.clock import from_text
from shared.envelope import Encoded, Event, decode, encode
from shared.errors import Poison
from shared.kafka import topics
from shared.kafka.consumer import RawRecord, Received

_LONGEST_NAME: Final = 200
_LONGEST_SUBJECT: Final = 1000
_MOST_REASONS: Final = 100
_LARGEST: Final = 2**63 - 1
_EXPIRE_AT_ONCE: Final = 500
_UUIDS: Final = re.compile(" ".join(["[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"] * 4))


def read(record: RawRecord, *, region: str) -> Arrival:
    """The case that a record of the region's `cases` topic opens; raises Poison when it cannot be one."""
    event = decode(record.headers, record.key, record.value, region=region)
    opened = event.data
    if not isinstance(opened, events.CaseOpened) or record.value is None:
        raise Poison(f"{event.attributes.type} does not belong on this topic; expected {events.CASE_OPENED}")
    if opened.verdict != domain.REVIEW and opened.verdict not in domain.ACTIONS:
        raise Poison(f"verdict is {opened.verdict!r}, expected approve, reject or review")
    if opened.case_type != "item":
        raise Poison(f"case_type is {opened.case_type!r}, this version knows 'item'")
    if not 1 <= opened.priority <= 9:
        raise Poison(f"priority is {opened.priority}, expected 1 (first) to 9")
    if opened.version is not None and not 0 <= opened.version <= _LARGEST:
        raise Poison(f"version is {opened.version}, expected 0 to {_LARGEST}")
    if opened.reasons and (len(opened.reasons) > _MOST_REASONS or max(map(len, opened.reasons)) > _LONGEST_NAME):
        raise Poison(f"reasons: at most {_MOST_REASONS} of {_LONGEST_NAME} characters each")
    _require_text("queue", opened.queue, _LONGEST_NAME)
    _require_text("trace.policy_set", opened.trace.policy_set, _LONGEST_NAME)
    _require_text("the subject", event.attributes.subject, _LONGEST_SUBJECT)
    _require_ids(event.attributes.id, event.attributes.correlation_id, opened.case_id, opened.item_id)
    try:
        received_at, due_at = from_text(opened.received_at), from_text(opened.due_at)
    except (ValueError, OverflowError) as error:
        raise Poison(f"received_at or due_at is not an RFC 3339 time: {error}") from error
    return Arrival(
        event.attributes.id,
        event.attributes.correlation_id,
        event.attributes.subject,
        received_at,
        due_at,
        opened,
        record.value,
    )


class TakeInCases:
    """Stores what the router opened; decides at once what a policy decided."""

    def __init__(self, store: Store, *, region: str, wake: Callable[[], None]) -> None:
        self._store = store
        self._region = region
        self._wake = wake
        self._queues: set[str] = set()

    async def handle(self, batch: Sequence[Received[Arrival]]) -> None:
        """Take in a batch, all or nothing; what was taken in before changes nothing."""
        arrivals: dict[str, Arrival] = {}
        for received in batch:
            arrivals.setdefault(received.message.event_id, received.message)
        async with self._store.work() as work:
            fresh = await work.first_time(list(arrivals))
            if not fresh:
                return
            new = [arrival for event_id, arrival in arrivals.items() if event_id in fresh]
            known, now = await work.latest({arrival.subject for arrival in new})
            taken = domain.take_in(self._region, new, known, now)
            await work.add_cases(taken.cases)
            await work.add_decisions(taken.decisions)
            await work.set_latest(taken.latest, known)
            await work.supersede(taken.superseded)
            await work.publish(_for_kafka(self._region, taken.events))
            await work.tally(_tallies(taken))
            queues = {arrival.opened.queue for arrival in new}
            await work.add_queues(queues - self._queues)
        self._queues |= queues
        self._wake()
        self._count(taken, now)

    def _count(self, taken: domain.Intake, now: datetime) -> None:
        age = metrics.DECISION_AGE.labels(self._region, "policy")
        decided = [case.arrival for case in taken.cases if case.state == domain.DECIDED]
        for arrival in decided:
            age.observe((now - arrival.received_at).total_seconds())
        for (queue, action), n in Counter((a.opened.queue, a.opened.verdict) for a in decided).items():
            metrics.DECISIONS.labels(self._region, queue, action, "policy").inc(n)


class Lease(NamedTuple):
    """A case that is held, and until when: by the database's clock."""

    case: Case
    until: datetime


class ReviewCases:
    """What reviewers do. Raises domain.Refused for what a case's state does not allow."""

    def __init__(self, store: Store, *, region: str, wake: Callable[[], None]) -> None:
        self._store = store
        self._region = region
        self._wake = wake

    async def claim(
        self,
        *,
        reviewer: str,
        team: str,
        queues: Sequence[str],
        seconds: int,
        key: str | None = None,
        body: str | None = None,
    ) -> Lease | None:
        """The most urgent waiting case of `queues`, held from now on; None when nothing waits.

        The same `key` with the same `body`, while its lease runs, gives the same lease again.
        """
        async with self._store.work() as work:
            if key is not None and (held := await work.claimed_under(key)) is not None:
                case, now = held
                if case.lease_until is not None and case.lease_until > now and case.claim_key == key:
                    if case.claim_body != body:
                        raise Refused("idempotency-key-reused", "This Idempotency-Key came with another body before.")
                    return _lease(case)
            expired = await self._expire(work)
            lease = None
            found = await work.next_case(queues)
            if found is not None:
                case, event = domain.claim(
                    self._region, *found, reviewer=reviewer, team=team, seconds=seconds, claim_key=key, claim_body=body
                )
                await work.save([case])
                await work.publish(_for_kafka(self._region, [event]))
                lease = _lease(case)
        self._told("expired", expired)
        self._told("claimed", int(lease is not None))
        return lease

    async def heartbeat(self, case_id: str, *, token: int, seconds: int) -> Lease | None:
        """The lease runs `seconds` from now; None when there is no such case."""
        async with self._store.work() as work:
            found = await work.case(case_id)
            if found is None:
                return None
            case = domain.heartbeat(*found, token=token, seconds=seconds)
            await work.save([case])
        return _lease(case)

    async def release(self, case_id: str, *, token: int, reason: str) -> Case | None:
        """The case waits again; None when there is no such case."""
        async with self._store.work() as work:
            found = await work.case(case_id)
            if found is None:
                return None
            case, event = domain.release(self._region, *found, token=token, reason=reason)
            if event is not None:
                await work.save([case])
                await work.publish(_for_kafka(self._region, [event]))
        self._told("released", int(event is not None))
        return case

    async def decide(
        self, case_id: str, *, token: int, action: str, reasons: list[str], note: str
    ) -> tuple[Decision, bool] | None:
        """The decision, and whether it was made just now; None when there is no such case."""
        async with self._store.work() as work:
            found = await work.case(case_id)
            if found is None:
                return None
            case, now = found
            current = await work.current_decision(case_id) if case.state == domain.DECIDED else None
            case, decision, event = domain.decide(
                self._region, case, current, now, token=token, action=action, reasons=reasons, note=note
            )
            if event is not None:
                await work.save([case])
                await work.add_decisions([decision])
                await work.publish(_for_kafka(self._region, [event]))
                await work.tally({"decided": 1, f"people/{action}": 1})
        if event is None:
            return decision, False
        self._told("decided", 1)
        metrics.DECISIONS.labels(self._region, case.opened.queue, action, "people").inc()
        age = (now - from_text(case.opened.received_at)).total_seconds()
        metrics.DECISION_AGE.labels(self._region, "people").observe(age)
        return decision, True

    async def expire(self) -> bool:
        """End leases that have run out, up to a bound; whether there may be more."""
        async with self._store.work() as work:
            expired = await self._expire(work)
        self._told("expired", expired)
        return expired == _EXPIRE_AT_ONCE

    async def _expire(self, work: Work) -> int:
        changed = [domain.expire(self._region, case, now) for case, now in await work.expired(_EXPIRE_AT_ONCE)]
        if changed:
            await work.save([case for case, _ in changed])
            await work.publish(_for_kafka(self._region, [event for _, event in changed]))
        return len(changed)

    def _told(self, outcome: str, n: int) -> None:
        if n:
            metrics.LEASES.labels(self._region, outcome).inc(n)
            self._wake()


def _lease(case: Case) -> Lease:
    assert case.lease_until is not None  # noqa: S101 - a claimed case has one
    return Lease(case, case.lease_until)


def _for_kafka(region: str, told: Sequence[Event[Any]]) -> list[tuple[str, Encoded]]:
    topic = topics.decisions(region)
    return [(topic, encode(event.attributes, event.data)) for event in told]


def _tallies(taken: domain.Intake) -> Counter[str]:
    tallies = Counter(f"policy/{decision.action}" for decision in taken.decisions)
    decided = sum(tallies.values())
    superseded = len(taken.superseded) + sum(case.state == domain.SUPERSEDED for case in taken.cases)
    return tallies + Counter(decided=decided, superseded=superseded)


def _require_text(what: str, text: str, longest: int) -> None:
    if not 0 < len(text) <= longest or "\0" in text:
        raise Poison(f"{what} is {text!r:.300}, expected 1 to {longest} characters, none of them NUL")


def _require_ids(*given: str) -> None:
    if _UUIDS.fullmatch(" ".join(given)) is None:
        raise Poison(f"ce_id, ce_correlationid, case_id, item_id: {given!r:.500}, expected UUIDs in lower case")
