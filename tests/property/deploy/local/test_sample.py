"""Properties of the sample for every seed."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.local.sample import gtin, make


@settings(max_examples=20)
@given(seed=st.integers(0, 2**63), count=st.integers(1, 200), more=st.integers(0, 100))
def test_a_sample_is_repeatable_and_is_the_start_of_each_longer_sample(seed: int, count: int, more: int) -> None:
    assert list(make(count, seed)) == list(make(count + more, seed))[:count]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**63))
def test_a_valid_line_follows_the_rules_of_intake(seed: int) -> None:
    for line in make(150, seed):
        assert b"\n" not in line.body
        if line.action == "refused":
            continue
        item = msgspec.json.decode(line.body)
        assert item["markets"]
        assert len(item["markets"]) == len(set(item["markets"]))
        assert item.get("version", 1) >= 1
        assert all(0 <= score <= 1 for score in item.get("scores", {}).values())
        assert item.get("price", {"amount_minor": 0})["amount_minor"] >= 0
        if "gtin" in item:
            assert gtin(item["gtin"][:-1]) == item["gtin"]


@given(digits=st.text("0123456789", min_size=7, max_size=13))
def test_a_check_digit_makes_the_weighted_sum_a_multiple_of_ten(digits: str) -> None:
    whole = gtin(digits)

    assert sum(int(d) * (1 if position % 2 == 0 else 3) for position, d in enumerate(reversed(whole))) % 10 == 0
