"""Reviewers' decisions (promises 2 and 3)."""

from typing import Any

import msgspec
import pytest

from services.decision.domain import leases
from services.decision.domain.cases import Case, Decision
from services.decision.domain.decisions import DecideCommand, decide
from services.decision.domain.leases import ClaimCommand
from services.decision.domain.reasons import ReasonCodes
from shared.contracts import events, ids
from shared.contracts.envelope import Event
from shared.validation.faults import InputRejected
from tests.support.decision.domain import CODES, LATER, claimed_case, policy_set, received_notice, stored_case

COMMAND = DecideCommand(1, "reject", ["COUNTERFEIT"], "a fake dial")


def decided(
    case: Case, made: Decision | None = None, *, codes: ReasonCodes | None = CODES, **changed: Any
) -> tuple[Case, Decision, Event[events.DecisionMade] | None]:
    return decide("eu", case, made, LATER, COMMAND._replace(**changed), codes=codes)


def rejection(case: Case, made: Decision | None = None, **changed: Any) -> InputRejected:
    with pytest.raises(InputRejected) as rejected:
        decided(case, made, **changed)
    return rejected.value


def test_the_holder_of_a_case_decides_it() -> None:
    case, decision, event = decided(claimed_case())
    assert (case.state, decision.reviewer, decision.team, decision.lease_token) == ("decided", "r-1", "in_house", 1)
    assert event is not None
    assert (event.data.action, event.data.automated, event.data.note) == ("reject", False, "a fake dial")
    assert event.attributes.causation_id == ids.event_id(case.case_id, events.CASE_CLAIMED, 1)


def test_an_expired_lease_cannot_decide_even_without_another_claim() -> None:
    assert rejection(claimed_case(seconds=240)).slug == "lease-expired"


def test_an_expired_lease_cannot_decide_a_case_that_was_returned_to_its_queue() -> None:
    returned, _ = leases.expire("eu", claimed_case(seconds=5), LATER)
    assert rejection(returned).slug == "lease-expired"


def test_a_released_lease_cannot_decide() -> None:
    released, _ = leases.release("eu", claimed_case(), LATER, token=1, reason="")
    assert rejection(released).slug == "lease-released"


@pytest.mark.parametrize("token", [1, 3])
def test_only_the_last_token_decides(token: int) -> None:
    again, _ = leases.expire("eu", claimed_case(seconds=5), LATER)
    second, _ = leases.claim("eu", again, LATER, ClaimCommand("r-2", "acme", 300))
    assert rejection(second, token=token).slug == "wrong-lease-token"


def test_a_rejection_does_not_reveal_the_token_that_holds_or_held_the_case() -> None:
    held = msgspec.structs.replace(claimed_case(), lease_token=417)
    for token in (1, 418):
        assert "417" not in str(rejection(held, token=token))
    case, decision, _ = decided(held, token=417)
    assert "417" not in str(rejection(case, decision, action="approve"))


def test_a_named_reviewer_must_hold_the_lease_and_a_rejection_does_not_reveal_the_holder() -> None:
    rejected = rejection(claimed_case(), reviewer="r-2")
    assert (rejected.slug, "r-1" in str(rejected)) == ("wrong-lease-token", False)
    case, decision, _ = decided(claimed_case())
    assert rejection(case, decision, reviewer="r-2").slug == "already-decided"
    assert decided(claimed_case(), reviewer="r-1")[1].reviewer == "r-1"


def test_a_case_that_was_never_claimed_cannot_be_decided() -> None:
    assert rejection(stored_case()).slug == "wrong-lease-token"


def test_an_exact_repeat_returns_the_decision_without_an_event() -> None:
    case, decision, _ = decided(claimed_case())
    assert decided(case, decision) == (case, decision, None)


def test_another_decision_under_the_same_token_is_rejected() -> None:
    case, decision, _ = decided(claimed_case())
    assert rejection(case, decision, action="approve", reasons=[], note="").slug == "already-decided"


@pytest.mark.parametrize(
    ("state", "text"), [("superseded", "the-newer-item"), ("withdrawn", "its item was withdrawn"), ("closed", "closed")]
)
def test_a_case_that_ended_without_a_decision_cannot_be_decided(state: str, text: str) -> None:
    ended = msgspec.structs.replace(claimed_case(), state=state, superseded_by="the-newer-item")
    rejected = rejection(ended)
    assert (rejected.slug, text in str(rejected)) == (state, True)


def test_the_event_names_the_type_of_the_case() -> None:
    _, _, event = decided(claimed_case(received_notice()), action="approve")
    assert event is not None
    assert event.data.case_type == "notice"


@pytest.mark.parametrize("action", ["approve", "reject"])
def test_an_unknown_reason_code_is_rejected_for_every_action_and_named(action: str) -> None:
    rejected = rejection(claimed_case(), action=action, reasons=["FAKE", "Q", "OTHER", "QUIT"])
    assert (rejected.slug, rejected.status) == ("unknown-reason", 422)
    assert [fault.pointer for fault in rejected.faults] == ["/reasons/1", "/reasons/3"]
    assert "no reason code 'Q', 'QUIT'" in str(rejected)
    assert "WEAPONS" in str(rejected)


def test_without_a_policy_set_a_decision_with_reasons_is_refused_for_now_and_one_without_them_is_made() -> None:
    refused = rejection(claimed_case(), codes=None)
    assert (refused.slug, refused.status, refused.retry_after) == ("no-policy-set", 503, 5)
    assert decided(claimed_case(), codes=None, action="approve", reasons=[])[1].action == "approve"


def test_a_repeat_is_answered_as_before_under_another_set_and_without_one() -> None:
    case, made, _ = decided(claimed_case(), reasons=["WEAPONS"])
    other = ReasonCodes(policy_set(2, lamps=["LAMP"]))
    for codes in (other, None):
        assert decided(case, made, codes=codes, reasons=["WEAPONS"]) == (case, made, None)
    assert rejection(claimed_case(), codes=other, reasons=["WEAPONS"]).slug == "unknown-reason"


def test_a_lost_lease_is_reported_before_an_unknown_reason() -> None:
    assert rejection(claimed_case(), token=2, reasons=["Q"]).slug == "wrong-lease-token"
