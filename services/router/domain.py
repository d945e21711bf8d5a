"""From an item, a notice or an appeal to a case: a pure function of it, the region, the policy set and the operating
model.

The same item under the same set gives the same verdict and the same trace, whoever routes it and however often:
nothing here reads a clock, a file or a network. Times are reckoned from the moment of receipt. A condition that fails
to evaluate is never "no match": its policy sends the item to a person. Distinct combinations of held conditions are
few, so what follows from one is worked out once and remembered. Notices and appeals are for people to decide: no policy
is asked about them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import compress
from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace

from shared.contracts import ids
from shared.contracts.events import (
    AppealSubmitted,
    CaseOpened,
    CaseWithdrawn,
    Item,
    ItemSubmitted,
    ItemWithdrawn,
    NoticeSubmitted,
    OperatingModelPublished,
    Policy,
    PolicySetPublished,
    Region,
    Trace,
)
from shared.runtime.clock import from_text, to_text
from shared.runtime.errors import Poison

APPROVE: Final = "approve"
REVIEW: Final = "review"
REJECT: Final = "reject"
STRICTEST_FIRST: Final = (REJECT, REVIEW, APPROVE)
POLICY_ERROR: Final = "POLICY_ERROR"
SOURCE: Final = "piepowder/router"  # of every event the router produces

_CASE_TYPE: Final = "item"
_NOTICE: Final = "notice"
_APPEAL: Final = "appeal"
_DEFAULT_PRIORITY: Final = 5
_PRIORITY_OF_REPORTERS: Final = {"authority": 1, "trusted_flagger": 2}  # DSA Art. 9 and 22(1)
_PRIORITY_OF_GROUNDS: Final = {"csam": 1}
_REMEMBERED: Final = 20_000


class Evaluation(NamedTuple):
    """Which conditions of a set held, in order; `errors` tells by index why one could not be evaluated."""

    held: tuple[bool, ...]
    errors: Mapping[int, str]


class Conditions(Protocol):
    """All conditions of a policy set, ready to run; one that cannot be evaluated is in `errors` and did not hold."""

    def evaluate(self, submitted: ItemSubmitted, terms: Sequence[str]) -> Evaluation: ...


class Lane(NamedTuple):
    """What routing needs of a region: its markets, its queues' service levels in minutes, and the queues for what no
    policy sends elsewhere, for notices and for appeals."""

    region: str
    markets: frozenset[str]
    service_levels: Mapping[str, int]
    default_queue: str
    notice_queue: str
    appeal_queue: str


class Outcome(NamedTuple):
    """What follows from the conditions that held; the same for every item for which the same ones did."""

    verdict: str
    queue: str
    priority: int
    service_level: int
    reasons: list[str]
    trace: Trace


class Model:
    """An operating model made ready to route by."""

    def __init__(self, published: OperatingModelPublished) -> None:
        self.published = published
        self.id = published.id
        self._lanes = {region.id: _lane(region) for region in published.regions}

    @property
    def regions(self) -> frozenset[str]:
        return frozenset(self._lanes)

    def lane(self, region: str) -> Lane:
        """The region's lane; raises Poison when the model has no such region."""
        try:
            return self._lanes[region]
        except KeyError as error:
            raise Poison(f"operating model {self.id} has no region {region!r}") from error


class PolicySet:
    """A policy set made ready to run.

    `find_terms` names the word lists that a text meets; `conditions` are those of every policy, one after the other.
    """

    def __init__(
        self, published: PolicySetPublished, *, find_terms: Callable[[str], list[str]], conditions: Conditions
    ) -> None:
        self.published = published
        self.id = published.id
        self._find_terms = find_terms
        self._conditions = conditions
        self._names = condition_names(published.policies)
        self._rules = _rules(published.policies)
        self._remembered: dict[tuple[object, ...], Outcome] = {}

    def outcome(self, submitted: ItemSubmitted, lane: Lane, model: str) -> Outcome:
        """What the set says about an item in a region, under the operating model of that id."""
        item = submitted.item
        terms = self._find_terms(f"{item.title}\n{item.text}")
        held, errors = self._conditions.evaluate(submitted, terms)
        if errors:
            return self._conclude(held, errors, item.markets, lane, model)
        key = (held, lane.region, model, *item.markets)
        outcome = self._remembered.get(key)
        if outcome is None:
            outcome = self._conclude(held, errors, item.markets, lane, model)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = outcome
        return outcome

    def _conclude(
        self, held: tuple[bool, ...], errors: Mapping[int, str], markets: Iterable[str], lane: Lane, model: str
    ) -> Outcome:
        offered = lane.markets.intersection(markets)
        proposals = [
            proposal
            for rule in self._rules
            if not rule.markets or not rule.markets.isdisjoint(offered)
            if (proposal := rule.propose(held, errors)) is not None
        ]
        proposed = {proposal.verdict for proposal in proposals}
        verdict = next((v for v in STRICTEST_FIRST if v in proposed), self.published.default_verdict)
        behind = [proposal for proposal in proposals if proposal.verdict == verdict]
        first = min((proposal.policy for proposal in behind), key=lambda policy: policy.priority, default=None)
        queue = first.queue if first is not None and first.queue in lane.service_levels else lane.default_queue
        return Outcome(
            verdict,
            queue,
            _DEFAULT_PRIORITY if first is None else first.priority,
            lane.service_levels[queue],
            list(dict.fromkeys(reason for proposal in behind for reason in proposal.reasons)),
            Trace(
                policy_set=self.id,
                operating_model=model,
                matched=[proposal.policy.id for proposal in proposals if proposal.matched],
                held=list(compress(self._names, held)),
                errors={self._names[index]: why for index, why in errors.items()},
            ),
        )


class InForce(NamedTuple):
    """What items are routed by."""

    model: Model
    policy_set: PolicySet


def route(submitted: ItemSubmitted, region: str, policy_set: PolicySet, model: Model) -> CaseOpened:
    """The case that an item becomes in a region.

    The strictest verdict of the policies that match wins (reject, review, approve), the set's default when none does.
    Queue and priority come from the policy behind the verdict with the smallest priority number, the first in the set's
    order among equals; without a queue of its own, or one that the region lacks, the case goes to the default queue.
    It is due when the queue's service level has passed since receipt. Raises Poison when none of the item's markets
    belongs to the region, the model has no such region, or the time of receipt is none.
    """
    lane = model.lane(region)
    item = submitted.item
    _require_market("item", item.markets, lane, model)
    outcome = policy_set.outcome(submitted, lane, model.id)
    return CaseOpened(
        case_id=ids.case_id(submitted.item_id, region, _CASE_TYPE),
        item_id=submitted.item_id,
        platform=submitted.platform,
        kind=submitted.kind,
        subject_id=submitted.subject_id,
        version=submitted.version,
        queue=outcome.queue,
        priority=outcome.priority,
        received_at=submitted.received_at,
        due_at=due_at(submitted.received_at, outcome.service_level),
        verdict=outcome.verdict,
        reasons=outcome.reasons,
        trace=outcome.trace,
        item=item,
    )


def route_notice(submitted: NoticeSubmitted, region: str, policy_set: PolicySet, model: Model) -> CaseOpened:
    """The case that a notice becomes in a region, for people to decide, in the region's queue of notices.

    Authorities and trusted flaggers come before others, and offences against children before all. Raises Poison like
    `route`.
    """
    lane = model.lane(region)
    notice = submitted.notice
    _require_market("notice", notice.markets, lane, model)
    priority = min(
        _PRIORITY_OF_REPORTERS.get(notice.reporter.kind, _DEFAULT_PRIORITY),
        _PRIORITY_OF_GROUNDS.get(notice.ground, _DEFAULT_PRIORITY),
    )
    return CaseOpened(
        case_id=ids.case_id(submitted.notice_id, region, _NOTICE),
        case_type=_NOTICE,
        item_id=submitted.notice_id,
        platform=submitted.platform,
        kind=submitted.kind,
        subject_id=submitted.subject_id,
        queue=lane.notice_queue,
        priority=priority,
        received_at=submitted.received_at,
        due_at=due_at(submitted.received_at, lane.service_levels[lane.notice_queue]),
        verdict=REVIEW,
        trace=Trace(policy_set=policy_set.id, operating_model=model.id),
        item=Item(markets=notice.markets, language=notice.language),
        notice=replace(notice, reporter=replace(notice.reporter, email="")),
    )


def route_appeal(submitted: AppealSubmitted, region: str, policy_set: PolicySet, model: Model) -> CaseOpened:
    """The case that an appeal becomes in its region, for people to decide, in the region's queue of appeals.

    Raises Poison when the model has no such region, or the time of receipt is none.
    """
    lane = model.lane(region)
    appeal = submitted.appeal
    return CaseOpened(
        case_id=ids.case_id(submitted.appeal_id, region, _APPEAL),
        case_type=_APPEAL,
        item_id=submitted.appeal_id,
        platform=submitted.platform,
        kind=submitted.kind,
        subject_id=submitted.subject_id,
        queue=lane.appeal_queue,
        priority=_DEFAULT_PRIORITY,
        received_at=submitted.received_at,
        due_at=due_at(submitted.received_at, lane.service_levels[lane.appeal_queue]),
        verdict=REVIEW,
        trace=Trace(policy_set=policy_set.id, operating_model=model.id),
        item=Item(markets=[], language=appeal.language),
        appeal=replace(appeal, appellant=replace(appeal.appellant, email="")),
    )


def withdraw(withdrawn: ItemWithdrawn, region: str) -> CaseWithdrawn:
    """The withdrawal of the case that an item became in a region, or will become when its submission comes later."""
    return CaseWithdrawn(
        case_id=ids.case_id(withdrawn.item_id, region, _CASE_TYPE),
        item_id=withdrawn.item_id,
        platform=withdrawn.platform,
        kind=withdrawn.kind,
        subject_id=withdrawn.subject_id,
        version=withdrawn.version,
        withdrawn_at=withdrawn.withdrawn_at,
        reason=withdrawn.reason,
    )


@lru_cache(maxsize=50_000)
def due_at(received_at: str, minutes: int) -> str:
    """`minutes` after a time as text (RFC 3339, UTC, milliseconds); raises Poison when it is none."""
    try:
        return to_text(from_text(received_at) + timedelta(minutes=minutes))
    except (ValueError, OverflowError) as error:
        raise Poison(f"received_at is {received_at!r}, expected a time like 2026-05-01T09:30:00.000Z") from error


def condition_names(policies: Iterable[Policy]) -> list[str]:
    """The conditions' names in a trace, `<policy>/<index>`, in the set's order."""
    return [f"{policy.id}/{index}" for policy in policies for index in range(len(policy.when))]


def _require_market(what: str, markets: Sequence[str], lane: Lane, model: Model) -> None:
    if lane.markets.isdisjoint(markets):
        raise Poison(
            f"the {what}'s markets ({', '.join(markets) or 'none'}) do not belong to region {lane.region!r}"
            f" under operating model {model.id}"
        )


class _Proposal(NamedTuple):
    policy: Policy
    verdict: str
    reasons: list[str]
    matched: bool


class _Rule(NamedTuple):
    policy: Policy
    markets: frozenset[str]
    start: int
    end: int

    def propose(self, held: tuple[bool, ...], errors: Mapping[int, str]) -> _Proposal | None:
        """What the policy proposes; a review when one of its conditions erred and none is plainly false."""
        own = range(self.start, self.end)
        if not all(held[index] or index in errors for index in own):
            return None
        if any(index in errors for index in own):
            return _Proposal(self.policy, REVIEW, [POLICY_ERROR], matched=False)
        return _Proposal(self.policy, self.policy.verdict, self.policy.reasons, matched=True)


def _rules(policies: Iterable[Policy]) -> list[_Rule]:
    rules: list[_Rule] = []
    start = 0
    for policy in policies:
        end = start + len(policy.when)
        rules.append(_Rule(policy, frozenset(policy.markets), start, end))
        start = end
    return rules


def _lane(region: Region) -> Lane:
    return Lane(
        region.id,
        frozenset(region.markets),
        {queue.id: queue.service_level_minutes for queue in region.queues},
        region.default_queue,
        region.notice_queue or region.default_queue,
        region.appeal_queue or region.default_queue,
    )
