"""Random sequences of commands for a business request.

Only the transitions of the table happen, authors and sponsors never decide, approval needs the required number of
people, and every event is published once, in order, in the regions of the request.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.intake.requests.domain import lifecycle
from services.intake.requests.domain.lifecycle import ChangeCheck, Request, RequestStep, RequestTransition
from shared.contracts import events, ids
from shared.contracts.envelope import Event, decode, encode
from shared.contracts.events import BusinessRequest, ProposedChange, ProposedRegions
from shared.validation.faults import InputRejected

PEOPLE: Final = ("author", "writer", "lead-a", "lead-b", "lead-c", "Sponsor")
TRANSITIONS: Final = {  # repeated here, so that an error in `lifecycle.RULES` is found
    ("draft", "submitted"),
    ("draft", "withdrawn"),
    ("submitted", "approved"),
    ("submitted", "rejected"),
    ("submitted", "withdrawn"),
    ("approved", "deployed"),
    ("approved", "withdrawn"),
    ("deployed", "rolled_back"),
    ("deployed", "reviewed"),
}
BY_HAND: Final = ("deploy", "rollback")
REQUEST_ID: Final = ids.derive("request", "author", "one")
CHANGE: Final = ProposedChange(operating_model_diff=ProposedRegions(regions=[]))

people = st.sampled_from(PEOPLE)
reasons = st.sampled_from(["", "because", "for that"])
times = st.integers(0, 59).map(lambda n: f"2026-05-01T09:{n:02d}:00.000Z")
regions = st.lists(st.sampled_from(["eu", "us", "uk"]), min_size=1, max_size=3, unique=True)


def content(title: str, in_regions: list[str]) -> BusinessRequest:
    return BusinessRequest(title=title, kind="capacity", sponsor="sponsor", regions=in_regions)


def attempt(
    do: Callable[..., RequestTransition | None], *given: Any, **options: Any
) -> RequestTransition | InputRejected | None:
    """The outcome of a command, or its rejection."""
    try:
        return do(*given, **options)
    except InputRejected as rejection:
        return rejection


class RequestMachine(RuleBasedStateMachine):
    request: Request

    @initialize(in_regions=regions, needed=st.integers(1, 3), at=times)
    def begin(self, in_regions: list[str], needed: int, at: str) -> None:
        self.steps: list[RequestStep] = []
        self.published: list[Event[Any]] = []
        self.needed = needed
        outcome = lifecycle.draft(
            REQUEST_ID, content("a", in_regions), ChangeCheck(), by="author", at=at, approvals_needed=needed
        )
        self.request = outcome.request
        self._check(outcome, {*in_regions})

    @rule(title=st.sampled_from("ab"), in_regions=regions, by=st.sampled_from(["author", "writer"]), at=times)
    def change(self, title: str, in_regions: list[str], by: str, at: str) -> None:
        before, new = self.request, content(title, in_regions)
        if before.state != "draft":
            with pytest.raises(InputRejected) as raised:
                lifecycle.change(before, new, ChangeCheck(), by=by, at=at)
            assert raised.value.status == 409
            return
        outcome = lifecycle.change(before, new, ChangeCheck(), by=by, at=at)
        assert (outcome is None) == (new == before.content)
        if outcome is not None:
            assert by in outcome.request.authors
            self._check(outcome, {*in_regions} | {*before.content.regions})

    @rule(by=people, reason=reasons, at=times)
    def submit(self, by: str, reason: str, at: str) -> None:
        before = self.request
        check = ChangeCheck(verdict=lifecycle.FITS)
        outcome = attempt(
            lifecycle.submit, before, CHANGE, check, by=by, reason=reason, at=at, approvals_needed=self.needed
        )
        if isinstance(outcome, InputRejected):
            assert outcome.status == 409
            assert before.state != "draft"
            return
        if outcome is None:
            assert lifecycle.is_done(before, "submit", by, reason)
            return
        self._check(outcome, {*before.content.regions})

    @rule(
        command=st.sampled_from([name for name in lifecycle.RULES if name != "submit"]),
        by=people,
        reason=reasons,
        at=times,
    )
    def act(self, command: str, by: str, reason: str, at: str) -> None:
        before = self.request
        own = by.casefold() in {*before.authors, "sponsor"}
        outcome = attempt(lifecycle.act, before, command, by=by, reason=reason, at=at)
        if isinstance(outcome, InputRejected):
            if outcome.status == 422:
                assert command in ("reject", "rollback")
                assert not reason
            elif outcome.status == 403:
                assert own if command in ("approve", "reject") else not own
            else:
                assert outcome.status == 409
                assert (before.state in lifecycle.RULES[command].start) == (outcome.slug == "change-by-hand")
                assert outcome.slug != "change-by-hand" or command in BY_HAND
            return
        if outcome is None:
            assert lifecycle.is_done(before, command, by, reason)
            return
        assert command not in BY_HAND
        if command in ("approve", "reject"):
            assert not own
        if command == "withdraw":
            assert own
        if command == "reject":
            assert reason
        self._check(outcome, {*before.content.regions})

    @precondition(lambda self: len(self.steps) < 40)
    @rule(by=people, n=st.integers(0, 10**6), at=times)
    def comment(self, by: str, n: int, at: str) -> None:
        state = self.request.state
        outcome = lifecycle.comment(self.request, ids.derive("comment", str(n)), f"text {n}", by=by, at=at)
        assert outcome.request.state == state
        self._check(outcome, {*self.request.content.regions})

    def _check(self, outcome: RequestTransition, in_regions: set[str]) -> None:
        before, after = self.request, outcome.request
        if self.steps and before.state != after.state:
            assert (before.state, after.state) in TRANSITIONS
        assert after.version == len(self.steps) + 1 == outcome.step.version
        assert sorted(event.attributes.region for event in outcome.events) == sorted(in_regions)
        for event in outcome.events:
            encoded = encode(event.attributes, event.data)
            assert decode(encoded.headers, encoded.key, encoded.value) == event, "a consumer can decode it"
            if event.attributes.region not in after.content.regions:
                assert isinstance(event.data, events.RequestChanged)
                assert event.data.request is None, "a region that the request left gets no content"
        self.request = after
        self.steps.append(outcome.step)
        self.published += outcome.events

    @invariant()
    def a_stored_request_decodes_to_the_same_request(self) -> None:
        if hasattr(self, "steps"):
            assert msgspec.json.decode(msgspec.json.encode(self.request), type=Request) == self.request

    @invariant()
    def the_times_of_the_history_never_decrease(self) -> None:
        times = [step.at for step in getattr(self, "steps", [])]
        assert times == sorted(times)

    @invariant()
    def different_people_approve_and_authors_and_sponsors_never_do(self) -> None:
        if not hasattr(self, "steps"):
            return
        approvers = {approval.by for approval in self.request.approvals}
        assert len(approvers) == len(self.request.approvals)
        assert not {name.casefold() for name in approvers} & {*self.request.authors, "sponsor"}
        if self.request.state in ("approved", "deployed", "rolled_back", "reviewed"):
            assert len(approvers) == self.request.approvals_needed == self.needed

    @invariant()
    def each_region_has_its_own_sequence_of_events(self) -> None:
        sequences: dict[str, list[Event[Any]]] = {}
        for event in getattr(self, "published", []):
            sequences.setdefault(event.attributes.region, []).append(event)
        everywhere = [event.attributes.id for event in getattr(self, "published", [])]
        assert len({*everywhere}) == len(everywhere), "the event ids of two regions differ"
        for sequence in sequences.values():
            names = [event.attributes.id for event in sequence]
            assert len(set(names)) == len(names)
            assert [event.attributes.causation_id for event in sequence] == [None, *names[:-1]]
            assert {event.attributes.correlation_id for event in sequence} == {names[0]}
            assert [event.data.version for event in sequence] == sorted(event.data.version for event in sequence)


TestRequestMachine = RequestMachine.TestCase
TestRequestMachine.settings = settings(max_examples=120, stateful_step_count=40)


@pytest.mark.parametrize("by", ["lead-a", "author"])
def test_a_deployed_request_of_an_earlier_version_can_be_reviewed_and_not_rolled_back(by: str) -> None:
    approved = msgspec.structs.replace(
        lifecycle.draft(
            REQUEST_ID, content("a", ["eu"]), ChangeCheck(), by="author", at="x", approvals_needed=1
        ).request,
        state="deployed",
        done={"deploy": lifecycle.Mark(by="lead-a", at="x")},
    )
    repeated = attempt(lifecycle.act, approved, "deploy", by=by, reason="", at="x")
    assert repeated is None if by == "lead-a" else getattr(repeated, "slug", "") == "wrong-state"
    with pytest.raises(InputRejected, match="the request stays deployed") as raised:
        lifecycle.act(approved, "rollback", by=by, reason="wrong", at="x")
    assert (raised.value.status, raised.value.slug) == (409, "change-by-hand")
    reviewed = lifecycle.act(approved, "review", by=by, reason="fine", at="x")
    assert reviewed is not None
    assert reviewed.request.state == "reviewed"


def test_every_state_has_a_rule_and_each_command_leads_to_the_specified_state() -> None:
    assert {(start, rule.end) for rule in lifecycle.RULES.values() for start in rule.start} == TRANSITIONS
    assert {"draft"} | {end for _, end in TRANSITIONS} == {*lifecycle.STATES}


def test_a_request_at_the_limit_of_steps_can_still_be_decided() -> None:
    request = lifecycle.draft(
        REQUEST_ID, content("a", ["eu"]), ChangeCheck(), by="author", at="x", approvals_needed=1
    ).request
    long = msgspec.structs.replace(request, version=lifecycle.MAX_STEPS)
    with pytest.raises(InputRejected, match="only be decided"):
        lifecycle.comment(long, "c", "text", by="a", at="x")
    with pytest.raises(InputRejected, match="only be decided"):
        lifecycle.change(long, content("b", ["eu"]), ChangeCheck(), by="a", at="x")
    assert lifecycle.submit(long, None, ChangeCheck(), by="author", reason="", at="x", approvals_needed=1) is not None
