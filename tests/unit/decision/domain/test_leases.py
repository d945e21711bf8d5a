"""Leases of cases (promise 3)."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from services.decision.domain import leases
from services.decision.domain.cases import Case
from services.decision.domain.leases import ClaimCommand
from shared.validation.faults import InputRejected
from tests.support.decision.cases import NOON
from tests.support.decision.domain import LATER, claimed_case, received_notice, stored_case


def heartbeat(case: Case, token: int = 1, reviewer: str = "") -> Case:
    return leases.heartbeat(case, LATER, token=token, seconds=60, reviewer=reviewer)


def release(case: Case, token: int = 1, reviewer: str = "") -> Case:
    return leases.release("eu", case, LATER, token=token, reason="", reviewer=reviewer)[0]


COMMANDS = pytest.mark.parametrize("command", [heartbeat, release])


def rejection(command: Callable[..., Case], *given: Any) -> InputRejected:
    with pytest.raises(InputRejected) as rejected:
        command(*given)
    return rejected.value


def test_each_claim_has_a_larger_token_and_its_own_event() -> None:
    first, event = leases.claim("eu", stored_case(), NOON, ClaimCommand("r-1", "in_house", 300))
    expired, _ = leases.expire("eu", first, LATER)
    second, later_event = leases.claim("eu", expired, LATER, ClaimCommand("r-2", "acme", 300))
    assert (first.lease_token, second.lease_token) == (1, 2)
    assert event.attributes.id != later_event.attributes.id
    assert event.attributes.causation_id == first.event_id
    assert (event.data.reviewer, event.data.lease_until) == ("r-1", "2026-05-01T12:05:00.000Z")


def test_a_heartbeat_extends_the_lease() -> None:
    assert heartbeat(claimed_case()).lease_until == LATER.replace(minute=5)


def test_a_released_case_waits_again_and_a_second_release_changes_nothing() -> None:
    case, event = leases.release("eu", claimed_case(), LATER, token=1, reason="not my language")
    assert (case.state, case.reviewer) == ("waiting", "")
    assert event is not None
    assert (event.data.reviewer, event.data.reason) == ("r-1", "not my language")
    assert leases.release("eu", case, LATER, token=1, reason="") == (case, None)
    assert rejection(heartbeat, case).slug == "lease-released"


@COMMANDS
def test_an_expired_lease_is_rejected_before_and_after_the_case_returns_to_its_queue(
    command: Callable[..., Case],
) -> None:
    expired = claimed_case(seconds=240)
    returned, _ = leases.expire("eu", expired, LATER)
    for case in (expired, returned):
        assert rejection(command, case).slug == "lease-expired"


@COMMANDS
def test_a_case_that_was_never_claimed_has_no_lease(command: Callable[..., Case]) -> None:
    assert rejection(command, stored_case()).slug == "wrong-lease-token"


@COMMANDS
def test_only_the_last_token_holds_a_case_and_a_rejection_does_not_reveal_it(
    command: Callable[..., Case],
) -> None:
    held = msgspec.structs.replace(claimed_case(), lease_token=417)
    for token in (1, 418):
        rejected = rejection(command, held, token)
        assert (rejected.slug, "417" in str(rejected)) == ("wrong-lease-token", False)


@COMMANDS
def test_a_named_reviewer_must_hold_the_lease_and_a_rejection_does_not_reveal_the_holder(
    command: Callable[..., Case],
) -> None:
    rejected = rejection(command, claimed_case(), 1, "r-2")
    assert (rejected.slug, "r-1" in str(rejected)) == ("wrong-lease-token", False)
    command(claimed_case(), 1, "r-1")


@COMMANDS
@pytest.mark.parametrize(
    ("state", "slug", "text"),
    [
        ("superseded", "superseded", "the-newer-item"),
        ("withdrawn", "withdrawn", "its item was withdrawn"),
        ("closed", "closed", "without a decision"),
        ("decided", "already-decided", "was decided already"),
    ],
)
def test_a_case_that_has_ended_cannot_be_held(command: Callable[..., Case], state: str, slug: str, text: str) -> None:
    ended = msgspec.structs.replace(claimed_case(), state=state, superseded_by="the-newer-item")
    rejected = rejection(command, ended)
    assert (rejected.slug, text in str(rejected)) == (slug, True)


def test_the_events_of_a_lease_name_the_type_of_the_case() -> None:
    held, claimed = leases.claim("eu", stored_case(received_notice()), NOON, ClaimCommand("r-1", "in_house", 300))
    _, released = leases.release("eu", held, LATER, token=1, reason="")
    _, expired = leases.expire("eu", held, LATER)
    assert released is not None
    assert {claimed.data.case_type, released.data.case_type, expired.data.case_type} == {"notice"}
