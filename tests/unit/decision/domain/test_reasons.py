"""The valid reason codes: those of the policies of a set, and the grounds of notices."""

import pytest

from services.decision.domain.reasons import ReasonCodes
from shared.contracts.events import Policy
from shared.contracts.grounds import CATEGORIES
from shared.validation.faults import InputRejected
from tests.support.decision.domain import policy_set


def test_a_code_has_the_titles_of_its_policies_and_a_ground_its_name() -> None:
    codes = ReasonCodes(policy_set(3, a=["X", "COUNTERFEIT"], b=["X"]))
    assert (codes.policy_set, codes.number) == ("ps-3", 3)
    assert codes.titles.keys() == {"X", *map(str.upper, CATEGORIES)}
    assert [*codes.titles] == sorted(codes.titles)
    assert codes.titles["X"] == ["Policy a", "Policy b"]
    assert codes.titles["COUNTERFEIT"] == ["Policy a", "Ground of notices: counterfeit"]
    assert codes.titles["UNSAFE_PRODUCT"] == ["Ground of notices: unsafe product"]


def test_codes_of_the_router_and_policies_without_codes_or_titles_add_none() -> None:
    published = policy_set()
    plain = Policy(id="plain", when=["true"], verdict="review", reasons=["PLAIN"])
    without = Policy(id="none", title="None", when=["true"], verdict="review")
    codes = ReasonCodes(type(published)(
        id="ps", number=1, published_by="", policies=[plain, without], default_verdict="approve"
    ))  # fmt: skip
    assert codes.titles["PLAIN"] == []
    assert "POLICY_ERROR" not in codes.titles


def test_the_message_lists_at_most_fifty_codes() -> None:
    codes = ReasonCodes(policy_set(1, many=[f"CODE_{n:03}" for n in range(100)]))
    with pytest.raises(InputRejected) as rejected:
        codes.require_known(["Q"])
    message = str(rejected.value)
    assert "ANIMAL_WELFARE" in message
    assert f"and {len(codes.titles) - 50} more (GET /v1/reasons)." in message
    assert len(message) < 1_000
