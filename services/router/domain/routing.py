"""Routing: a pure function from an item, notice or appeal to a case of its region.

The result depends only on the input, the region, the policy set and the operating model: no clock, file or network is
read. The same item under the same rules therefore always gives the same case. An event fixes its regions and markets
when it is accepted: it belongs to the region of its topic under every operating model, so no change of the model makes
an accepted event invalid. The model in force sets queue and service level. Due times count from the time of receipt. A
condition that cannot be evaluated never counts as "no match": its policy proposes a review. Few combinations of held
conditions occur, so the outcome of each combination is cached. Notices and appeals always go to a reviewer; no policy
applies to them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import compress
from typing import Final, NamedTuple, Protocol, TypeAlias

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
    TermHit,
    Trace,
)
from shared.runtime.clock import from_text, to_text
from shared.runtime.errors import Poison, Transient

APPROVE: Final = "approve"
REVIEW: Final = "review"
REJECT: Final = "reject"
STRICTEST_FIRST: Final = (REJECT, REVIEW, APPROVE)
POLICY_ERROR: Final = "POLICY_ERROR"
SOURCE: Final = "piepowder/router"  # of every event the router produces

_ITEM: Final = "item"
_NOTICE: Final = "notice"
_APPEAL: Final = "appeal"
_DEFAULT_PRIORITY: Final = 5
_REPORTER_PRIORITY: Final = {"authority": 1, "trusted_flagger": 2}  # DSA Art. 9 and 22(1)
_GROUND_PRIORITY: Final = {"csam": 1}
_MAX_CACHED_OUTCOMES: Final = 20_000
_MAX_CACHED_RESULTS: Final = 2_000_000  # results of conditions in the keys of cached outcomes: 16 MB

Submitted: TypeAlias = ItemSubmitted | ItemWithdrawn | NoticeSubmitted | AppealSubmitted


class Evaluation(NamedTuple):
    """Results of a set's conditions, in order; `errors` has, by index, why a condition could not be evaluated."""

    held: tuple[bool, ...]
    errors: Mapping[int, str]


class Conditions(Protocol):
    """The compiled conditions of a policy set; one that cannot be evaluated is in `errors` and does not hold.

    `slow` has, by index, why a condition is slow: the construct that the fast evaluation does not cover.
    """

    @property
    def slow(self) -> Mapping[int, str]: ...

    def evaluate(self, submitted: ItemSubmitted, terms: Sequence[str]) -> Evaluation: ...


class ConditionFault(NamedTuple):
    """A condition that does not compile or may not be published: index of its policy, its index there, and why."""

    policy: int
    condition: int
    message: str


class InvalidConditions(Exception):  # noqa: N818 - named after the fact, not after an error
    """Conditions of a policy set that do not compile."""

    def __init__(self, faults: Sequence[ConditionFault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


class FoundTerms(NamedTuple):
    """The word lists found in an item: by name, the first of its phrases that was found; and the places of all."""

    phrases: Mapping[str, str]
    hits: Sequence[TermHit]


NOTHING_FOUND: Final = FoundTerms({}, ())


class TermFault(NamedTuple):
    """A fault of a word list: its name, the place in it (`phrases/3`), and a message with the remedy. Name and place
    are empty for a fault of all lists together."""

    list: str
    place: str
    message: str


class InvalidTerms(Exception):  # noqa: N818 - named after the fact, not after an error
    """Word lists of a policy set that cannot be used."""

    def __init__(self, faults: Sequence[TermFault]) -> None:
        super().__init__(
            "; ".join(f"list {fault.list!r}: {fault.message}" if fault.list else fault.message for fault in faults)
        )
        self.faults = faults


class RegionRoute(NamedTuple):
    """A region's part of an operating model, prepared for routing; service levels are in minutes, by queue."""

    region: str
    markets: frozenset[str]
    service_levels: Mapping[str, int]
    default_queue: str
    notice_queue: str
    appeal_queue: str


class RoutingOutcome(NamedTuple):
    """The result of a combination of held conditions; equal for every item with the same combination, except for the
    found terms in the trace."""

    verdict: str
    queue: str
    priority: int
    service_level: int
    reasons: list[str]
    trace: Trace


class OperatingModel:
    """An operating model, prepared for routing."""

    def __init__(self, published: OperatingModelPublished) -> None:
        self.published = published
        self.id = published.id
        self._routes = {region.id: _region_route(region) for region in published.regions}
        self._owner = {market: region.id for region in published.regions for market in region.markets}

    @property
    def regions(self) -> frozenset[str]:
        return frozenset(self._routes)

    def region_route(self, region: str) -> RegionRoute:
        """The route of a region; raises Transient if the operating model does not have the region: its events wait
        for a model that has it."""
        try:
            return self._routes[region]
        except KeyError as error:
            raise Transient(f"Operating model {self.id} has no region {region!r}; its submissions wait.") from error

    def markets_of(self, submitted: ItemSubmitted, region: str) -> list[str]:
        """The markets of an item that `region` owned when the item was accepted.

        An event without this fact is older than the fact: then all markets count, except those that now belong to
        another region of the event. If none is left, because a market moved between regions of the event, all count.
        """
        if accepted := submitted.markets_by_region.get(region):
            return accepted
        markets = submitted.item.markets
        others = set(submitted.regions) - {region}
        return [market for market in markets if self._owner.get(market) not in others] or markets


class PolicySet:
    """A compiled policy set.

    `find_terms` returns the word lists found in a title and a text; `term_faults` are phrases that it never finds;
    `conditions` has the conditions of all policies, in the order of the policies; `condition_faults` are those that may
    not be published, and fail for every item.
    """

    def __init__(
        self,
        published: PolicySetPublished,
        *,
        find_terms: Callable[[str, str], FoundTerms],
        conditions: Conditions,
        term_faults: Sequence[TermFault] = (),
        condition_faults: Sequence[ConditionFault] = (),
    ) -> None:
        self.published = published
        self.id = published.id
        self.find_terms = find_terms
        self.term_faults = term_faults
        self.condition_faults = condition_faults
        self._conditions = conditions
        self._names = condition_names(published.policies)
        self._rules = _rules(published.policies)
        has_firsts = all(rule.start < rule.end for rule in self._rules)
        self._firsts = [rule.start for rule in self._rules] if has_firsts else None
        self._max_outcomes = min(_MAX_CACHED_OUTCOMES, _MAX_CACHED_RESULTS // max(1, len(self._names)))
        self._outcomes: dict[tuple[object, ...], RoutingOutcome] = {}

    @property
    def slow_conditions(self) -> dict[str, str]:
        """The slow conditions by name, each with the construct that makes it slow."""
        return {self._names[index]: reason for index, reason in self._conditions.slow.items()}

    def outcome(
        self, submitted: ItemSubmitted, markets: Sequence[str], region_route: RegionRoute, model_id: str
    ) -> RoutingOutcome:
        """Evaluate an item that is offered in these `markets` of a region, under the operating model `model_id`."""
        terms, hits = self.find_terms(submitted.item.title, submitted.item.text)
        held, errors = self._conditions.evaluate(submitted, [*terms])
        outcome = self._concluded(held, errors, markets, region_route, model_id)
        if not terms:
            return outcome
        return outcome._replace(trace=replace(outcome.trace, terms=dict(terms), hits=list(hits)))

    def _concluded(
        self,
        held: tuple[bool, ...],
        errors: Mapping[int, str],
        markets: Sequence[str],
        region_route: RegionRoute,
        model_id: str,
    ) -> RoutingOutcome:
        """The outcome of a combination of held conditions, from the cache if no condition failed."""
        if errors:
            return self._conclude(held, errors, markets, region_route, model_id)
        key = (held, region_route.region, model_id, *markets)
        outcome = self._outcomes.get(key)
        if outcome is None:
            outcome = self._conclude(held, errors, markets, region_route, model_id)
            if len(self._outcomes) >= self._max_outcomes:
                self._outcomes.clear()
            self._outcomes[key] = outcome
        return outcome

    def _candidates(self, held: tuple[bool, ...], errors: Mapping[int, str]) -> Iterable["_Rule"]:
        """The rules that can propose something: without an error, those whose first condition holds."""
        if errors or self._firsts is None:
            return self._rules
        return compress(self._rules, map(held.__getitem__, self._firsts))

    def _conclude(
        self,
        held: tuple[bool, ...],
        errors: Mapping[int, str],
        markets: Iterable[str],
        region_route: RegionRoute,
        model_id: str,
    ) -> RoutingOutcome:
        proposals = [
            proposal
            for rule in self._candidates(held, errors)
            if (proposal := rule.propose(held, errors)) is not None
            if not rule.markets or not rule.markets.isdisjoint(markets)
        ]
        proposed = {proposal.verdict for proposal in proposals}
        verdict = next((v for v in STRICTEST_FIRST if v in proposed), self.published.default_verdict)
        decisive = [proposal for proposal in proposals if proposal.verdict == verdict]
        first = min((proposal.policy for proposal in decisive), key=lambda policy: policy.priority, default=None)
        queue = region_route.default_queue
        if first is not None and first.queue in region_route.service_levels and _reaches(first, region_route):
            queue = first.queue
        return RoutingOutcome(
            verdict,
            queue,
            _DEFAULT_PRIORITY if first is None else first.priority,
            region_route.service_levels[queue],
            list(dict.fromkeys(reason for proposal in decisive for reason in proposal.reasons)),
            Trace(
                policy_set=self.id,
                operating_model=model_id,
                matched=[proposal.policy.id for proposal in proposals if proposal.matched],
                held=list(compress(self._names, held)),
                errors={self._names[index]: error for index, error in errors.items()},
            ),
        )


class RulesInForce(NamedTuple):
    """The operating model and the policy set that route the next batch."""

    operating_model: OperatingModel
    policy_set: PolicySet


def route(submitted: ItemSubmitted, region: str, policy_set: PolicySet, model: OperatingModel) -> CaseOpened:
    """Open the case of an item in a region.

    The strictest verdict of the matching policies wins (reject, review, approve); without a match it is the set's
    default verdict. Of the policies with that verdict, the one with the smallest priority number sets queue and
    priority; among equals, the first in the set's order. The region's default queue replaces a queue that is empty or
    not in the region, and the queue of a policy whose markets have all left the region. The case is due when the
    queue's service level has passed since receipt. Raises Poison if the time of receipt is not a time, and Transient if
    the operating model does not have the region.
    """
    region_route = model.region_route(region)
    item = submitted.item
    outcome = policy_set.outcome(submitted, model.markets_of(submitted, region), region_route, model.id)
    return CaseOpened(
        case_id=ids.case_id(submitted.item_id, region, _ITEM),
        item_id=submitted.item_id,
        platform=submitted.platform,
        kind=submitted.kind,
        subject_id=submitted.subject_id,
        version=submitted.version,
        queue=outcome.queue,
        priority=outcome.priority,
        received_at=submitted.received_at,
        client=submitted.client if submitted.requested_at else "",
        requested_at=submitted.requested_at,
        due_at=due_at(submitted.received_at, outcome.service_level),
        verdict=outcome.verdict,
        reasons=outcome.reasons,
        trace=outcome.trace,
        item=item,
    )


def route_notice(submitted: NoticeSubmitted, region: str, policy_set: PolicySet, model: OperatingModel) -> CaseOpened:
    """Open the case of a notice in a region, for a reviewer, in the region's notice queue.

    Notices from authorities, from trusted flaggers and about sexual abuse of children have a higher priority. Raises
    like `route`.
    """
    region_route = model.region_route(region)
    notice = submitted.notice
    priority = min(
        _REPORTER_PRIORITY.get(notice.reporter.kind, _DEFAULT_PRIORITY),
        _GROUND_PRIORITY.get(notice.ground, _DEFAULT_PRIORITY),
    )
    return CaseOpened(
        case_id=ids.case_id(submitted.notice_id, region, _NOTICE),
        case_type=_NOTICE,
        item_id=submitted.notice_id,
        platform=submitted.platform,
        kind=submitted.kind,
        subject_id=submitted.subject_id,
        queue=region_route.notice_queue,
        priority=priority,
        received_at=submitted.received_at,
        due_at=due_at(submitted.received_at, region_route.service_levels[region_route.notice_queue]),
        verdict=REVIEW,
        trace=Trace(policy_set=policy_set.id, operating_model=model.id),
        item=Item(markets=notice.markets, language=notice.language),
        notice=replace(notice, reporter=replace(notice.reporter, email="")),
    )


def route_appeal(submitted: AppealSubmitted, region: str, policy_set: PolicySet, model: OperatingModel) -> CaseOpened:
    """Open the case of an appeal in a region, for a reviewer, in the region's appeal queue.

    Raises like `route`.
    """
    region_route = model.region_route(region)
    appeal = submitted.appeal
    return CaseOpened(
        case_id=ids.case_id(submitted.appeal_id, region, _APPEAL),
        case_type=_APPEAL,
        item_id=submitted.appeal_id,
        platform=submitted.platform,
        kind=submitted.kind,
        subject_id=submitted.subject_id,
        queue=region_route.appeal_queue,
        priority=_DEFAULT_PRIORITY,
        received_at=submitted.received_at,
        due_at=due_at(submitted.received_at, region_route.service_levels[region_route.appeal_queue]),
        verdict=REVIEW,
        trace=Trace(policy_set=policy_set.id, operating_model=model.id),
        item=Item(markets=[], language=appeal.language),
        appeal=replace(appeal, appellant=replace(appeal.appellant, email="")),
    )


def withdraw(withdrawn: ItemWithdrawn, region: str) -> CaseWithdrawn:
    """Withdraw the case of an item in a region, also if the case is opened only later."""
    return CaseWithdrawn(
        case_id=ids.case_id(withdrawn.item_id, region, _ITEM),
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
    """Add minutes to a time (RFC 3339 text, UTC, milliseconds); raises Poison if `received_at` is not a time."""
    try:
        return to_text(from_text(received_at) + timedelta(minutes=minutes))
    except (ValueError, OverflowError) as error:
        raise Poison(f"received_at is {received_at!r}, expected a time like 2026-05-01T09:30:00.000Z") from error


def condition_names(policies: Iterable[Policy]) -> list[str]:
    """The names of the conditions in a trace, `<policy>/<index>`, in the set's order."""
    return [f"{policy.id}/{index}" for policy in policies for index in range(len(policy.when))]


def require_region(submitted: Submitted, region: str) -> None:
    """Require that an event names the region of its topic; raises Poison."""
    if region not in submitted.regions:
        raise Poison(f"the event names the regions {', '.join(submitted.regions) or 'none'}, not {region!r}")


def opening_id(cause: str, case_opened: str, trace: Trace) -> str:
    """Id of the event that opens a case: the same for a replay under the same rules, another one under other rules.

    `case_opened` is the event's type. Under other rules, the same cause may give other values: then it is another
    event, and the decision service keeps the first one. A trace with `hits` gives another id than routers without this
    field gave, because it is another value; a trace without hits keeps its id.
    """
    with_hits = "/hits" if trace.hits else ""
    return ids.event_id(cause, case_opened, f"{trace.policy_set}/{trace.operating_model}{with_hits}")


def _reaches(policy: Policy, region_route: RegionRoute) -> bool:
    """True if the policy applies to a market of the region now, so that the publication has checked its queue."""
    return not policy.markets or not region_route.markets.isdisjoint(policy.markets)


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
    matched: _Proposal

    def propose(self, held: tuple[bool, ...], errors: Mapping[int, str]) -> _Proposal | None:
        """The policy's proposal; a review if one of its conditions failed and no other condition is false."""
        if not errors:
            return self.matched if all(held[self.start : self.end]) else None
        own = range(self.start, self.end)
        if not all(held[index] or index in errors for index in own):
            return None
        if any(index in errors for index in own):
            return _Proposal(self.policy, REVIEW, [POLICY_ERROR], matched=False)
        return self.matched


def _rules(policies: Iterable[Policy]) -> list[_Rule]:
    rules: list[_Rule] = []
    start = 0
    for policy in policies:
        end = start + len(policy.when)
        matched = _Proposal(policy, policy.verdict, policy.reasons, matched=True)
        rules.append(_Rule(policy, frozenset(policy.markets), start, end, matched))
        start = end
    return rules


def _region_route(region: Region) -> RegionRoute:
    return RegionRoute(
        region.id,
        frozenset(region.markets),
        {queue.id: queue.service_level_minutes for queue in region.queues},
        region.default_queue,
        region.notice_queue or region.default_queue,
        region.appeal_queue or region.default_queue,
    )
