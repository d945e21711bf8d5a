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

from services.decision import domain, metrics
from services.decision.domain import Arrival, Case, Decision, Refused, Withdrawal
from services.decision.store import Store, Work
from shared.contracts import events, topics
from shared.contracts.envelope import Encoded, Event, decode, encode
from shared.kafka.consumer import RawRecord, Received
from shared.runtime.clock import from_text
from shared.runtime.errors import Poison, TooNew

_LONGEST_NAME: Final = 200
_LONGEST_SUBJECT: Final = 1000
_MOST_REASONS: Final = 100
_LARGEST: Final = 2**63 - 1
_EXPIRE_AT_ONCE: Final = 500
_UUIDS: Final = re.compile(" ".join(["[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"] * 4))


def read(record: RawRecord, *, region: str) -> Arrival | Withdrawal:
    """The case that a record of the region's `cases` topic opens or withdraws; raises Poison when it cannot be one."""
    event = decode(record.headers, record.key, record.value, region=region)
    opened = event.data
    if isinstance(opened, events.CaseWithdrawn):
        _require_ids(event.attributes.id, event.attributes.correlation_id, opened.case_id, opened.item_id)
        _require_text("the subject", event.attributes.subject, _LONGEST_SUBJECT)
        return Withdrawal(event.attributes.id, event.attributes.subject, opened.case_id, opened.item_id)
    if not isinstance(opened, events.CaseOpened) or record.value is None:
        expected = f"{events.CASE_OPENED} or {events.CASE_WITHDRAWN}"
        raise Poison(f"{event.attributes.type} does not belong on this topic; expected {expected}")
    if opened.verdict != domain.REVIEW and opened.verdict not in domain.ACTIONS:
        raise Poison(f"verdict is {opened.verdict!r}, expected approve, reject or review")
    if opened.case_type != domain.ITEM or opened.notice is not None or opened.appeal is not None:
        _require_complaint(opened)
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
    """Stores what the router opened, deciding at once what a policy decided; ends what was withdrawn."""

    def __init__(self, store: Store, *, region: str, wake: Callable[[], None]) -> None:
        self._store = store
        self._region = region
        self._wake = wake
        self._queues: set[str] = set()

    async def handle(self, batch: Sequence[Received[Arrival | Withdrawal]]) -> None:
        """Take in a batch, all or nothing; what was taken in before changes nothing."""
        come: dict[str, Arrival | Withdrawal] = {}
        for received in batch:
            come.setdefault(received.message.event_id, received.message)
        async with self._store.work() as work:
            fresh = await work.first_time(list(come))
            if not fresh:
                return
            new = [one for event_id, one in come.items() if event_id in fresh]
            known = await work.known(
                {one.subject for one in new},
                opened=[one.opened.case_id for one in new if isinstance(one, Arrival)],
                withdrawn=[one.case_id for one in new if isinstance(one, Withdrawal)],
                appealed={
                    one.opened.appeal.decision.case_id
                    for one in new
                    if isinstance(one, Arrival) and one.opened.appeal is not None
                },
            )
            taken = domain.take_in(
                self._region,
                new,
                known.latest,
                known.now,
                stored=known.stored,
                early=known.early,
                standings=known.standings,
            )
            await work.add_cases(taken.cases)
            await work.add_decisions(taken.decisions)
            await work.set_latest(taken.latest, known.latest)
            await work.end(taken.superseded, taken.withdrawn)
            await work.keep_withdrawals(taken.early, taken.met)
            await work.publish(_for_kafka(self._region, taken.events))
            await work.tally(_tallies(taken))
            queues = {case.arrival.opened.queue for case in taken.cases}
            await work.add_queues(queues - self._queues)
        self._queues |= queues
        self._wake()
        self._count(taken, known.now)

    def _count(self, taken: domain.Intake, now: datetime) -> None:
        age = metrics.DECISION_AGE.labels(self._region, "policy")
        decided = [case.arrival for case in taken.cases if case.state == domain.DECIDED]
        for arrival in decided:
            age.observe((now - arrival.received_at).total_seconds())
        for (queue, action), n in Counter((a.opened.queue, a.opened.verdict) for a in decided).items():
            metrics.DECISIONS.labels(self._region, queue, action, "policy").inc(n)
        closed = Counter(event.data.reason for event in taken.events if isinstance(event.data, events.CaseClosed))
        for reason, n in closed.items():
            metrics.CASES_CLOSED.labels(self._region, reason).inc(n)


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
            found = await work.next_case(queues, reviewer)
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

    async def heartbeat(self, case_id: str, *, token: int, seconds: int, reviewer: str = "") -> Lease | None:
        """The lease runs `seconds` from now; None when there is no such case."""
        async with self._store.work() as work:
            found = await work.case(case_id)
            if found is None:
                return None
            case = domain.heartbeat(*found, token=token, seconds=seconds, reviewer=reviewer)
            await work.save([case])
        return _lease(case)

    async def release(self, case_id: str, *, token: int, reason: str, reviewer: str = "") -> Case | None:
        """The case waits again; None when there is no such case."""
        async with self._store.work() as work:
            found = await work.case(case_id)
            if found is None:
                return None
            case, event = domain.release(self._region, *found, token=token, reason=reason, reviewer=reviewer)
            if event is not None:
                await work.save([case])
                await work.publish(_for_kafka(self._region, [event]))
        self._told("released", int(event is not None))
        return case

    async def decide(
        self, case_id: str, *, token: int, action: str, reasons: list[str], note: str, reviewer: str = ""
    ) -> tuple[Decision, bool] | None:
        """The decision, and whether it was made just now; None when there is no such case."""
        async with self._store.work() as work:
            found = await work.case(case_id)
            if found is None:
                return None
            case, now = found
            made = await work.first_decision(case_id) if case.state == domain.DECIDED else None
            contested = None
            if case.opened.appeal is not None:
                contested, now = await self._contested(work, case.opened.appeal.decision.case_id, now)
            case, decision, event = domain.decide(
                self._region,
                case,
                made,
                now,
                token=token,
                action=action,
                reasons=reasons,
                note=note,
                reviewer=reviewer,
                contested=None if contested is None else contested[1],
            )
            if event is None:
                return decision, False
            decisions: list[Decision] = [decision]
            told: list[Event[Any]] = [event]
            if contested is not None and action == domain.OVERTURN:
                replacing, replaced = domain.overturn(self._region, case, decision, *contested)
                decisions.append(replacing)
                told.append(replaced)
            await work.save([case])
            await work.add_decisions(decisions)
            await work.publish(_for_kafka(self._region, told))
            by = "people" if case.opened.appeal is None else "appeals"
            await work.tally({"decided": 1, f"{by}/{action}": 1})
        self._told("decided", 1)
        metrics.DECISIONS.labels(self._region, case.opened.queue, action, by).inc()
        age = (now - from_text(case.opened.received_at)).total_seconds()
        metrics.DECISION_AGE.labels(self._region, "people").observe(age)
        return decision, True

    async def _contested(
        self, work: Work, case_id: str, now: datetime
    ) -> tuple[tuple[Case, Decision] | None, datetime]:
        """The case that an appeal is about, locked, with its decision in force, None when there is none; and the time
        after that, for a lease may have run out meanwhile."""
        found = await work.case(case_id)
        if found is None:
            return None, now
        current = await work.current_decision(case_id)
        return (None if current is None else (found[0], current)), found[1]

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
    tallies["decided"] = len(taken.decisions)
    return tallies + _ended(taken)


def _ended(taken: domain.Intake) -> Counter[str]:
    """How many cases were superseded, how many withdrawn, how many closed."""
    undecided = (domain.SUPERSEDED, domain.WITHDRAWN, domain.CLOSED)
    born = Counter(case.state for case in taken.cases if case.state in undecided)
    return born + Counter({domain.SUPERSEDED: len(taken.superseded), domain.WITHDRAWN: len(taken.withdrawn)})


def _require_text(what: str, text: str, longest: int) -> None:
    if not 0 < len(text) <= longest or "\0" in text:
        raise Poison(f"{what} is {text!r:.300}, expected 1 to {longest} characters, none of them NUL")


def _require_complaint(opened: events.CaseOpened) -> None:
    """A notice's case has the notice, an appeal's the appeal, and both are for people to decide."""
    if opened.case_type not in domain.ACTIONS_OF:
        raise TooNew(f"case_type is {opened.case_type!r}, this version knows {', '.join(domain.ACTIONS_OF)}")
    said = {domain.NOTICE: opened.notice, domain.APPEAL: opened.appeal}
    if [name for name, what in said.items() if what is not None] != [opened.case_type]:
        raise Poison(f"a case of type {opened.case_type!r} that does not have what its type says, or more")
    if opened.verdict != domain.REVIEW:
        raise Poison(f"verdict is {opened.verdict!r}, and a case of type {opened.case_type!r} is for people to decide")
    if opened.appeal is not None:
        about = opened.appeal.decision
        _require_ids(about.decision_id, about.case_id, about.item_id, opened.case_id)
        if about.reviewer:
            _require_text("the reviewer appealed about", about.reviewer, _LONGEST_NAME)


def _require_ids(*given: str) -> None:
    if _UUIDS.fullmatch(" ".join(given)) is None:
        raise Poison(f"ce_id, ce_correlationid, case_id, item_id: {given!r:.500}, expected UUIDs in lower case")
