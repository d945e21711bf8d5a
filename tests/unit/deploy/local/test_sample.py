"""The sample: the same on every machine; its correct decisions are separate from the posted lines."""

import hashlib
from collections import Counter

import msgspec
import pytest

from deploy.local.sample import DATA, EU, US, VIOLATIONS, SampleLine, gtin, make, truth
from piepowder.review_session import ValidReasons
from piepowder.simulation import choose, truth_key
from shared.contracts.envelope import subject_of


@pytest.fixture(scope="module")
def sample() -> list[SampleLine]:
    return list(make(5000, seed=1))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(sample: list[SampleLine]) -> None:
    def digest(lines: list[SampleLine]) -> str:
        return hashlib.sha256(b"\n".join(line.body for line in lines)).hexdigest()

    assert digest(list(make(5000, seed=1))) == digest(sample)
    assert digest(list(make(500, seed=2))) != digest(sample[:500])


def test_a_longer_sample_begins_with_the_shorter_one(sample: list[SampleLine]) -> None:
    assert list(make(300, seed=1)) == sample[:300]


def test_the_sample_has_every_planted_fault_kind_language_and_market(sample: list[SampleLine]) -> None:
    planted = Counter(line.why for line in sample)
    accepted = [msgspec.json.decode(line.body) for line in sample if line.action != "refused"]

    assert {violation.why for violation in VIOLATIONS} <= planted.keys()
    assert {"newer version", "older version", "absurd price", "bad seller"} <= planted.keys()
    assert 0.005 < sum(line.action == "refused" for line in sample) / len(sample) < 0.02
    assert {item["kind"] for item in accepted} == {"product", "seller", "content"}
    assert {item["language"] for item in accepted} == DATA["sentences"].keys()
    markets = [set(item["markets"]) for item in accepted]
    assert any(found & set(EU) and found & set(US) for found in markets)
    assert len({line.body for line in sample}) < len(sample)


def test_the_sample_has_each_invalid_line_and_the_large_one_once(sample: list[SampleLine]) -> None:
    faults = Counter(line.why for line in sample if line.action == "refused")

    assert len(faults) == 12
    assert faults["text of 2 MB"] == 1


def test_the_truth_is_not_in_the_posted_lines(sample: list[SampleLine]) -> None:
    for line in sample:
        if line.action != "refused":
            assert not {"action", "why", "truth"} & msgspec.json.decode(line.body).keys()


def test_every_accepted_line_is_found_in_the_truth_by_its_subject_and_version(sample: list[SampleLine]) -> None:
    known = truth(iter(sample))

    for line in sample:
        if line.action != "refused":
            item = msgspec.json.decode(line.body)
            subject = subject_of(item["platform"], item["kind"], item["id"])
            assert known[truth_key(subject, item.get("version"))] == line.action


def test_check_digits_are_right() -> None:
    assert gtin("400638133393") == "4006381333931"
    assert gtin("9638507") == "96385074"


def test_a_simulated_reviewer_decides_by_case_and_seed_only_and_mostly_correctly() -> None:
    cases = [
        {"case_id": f"case-{n}", "platform": "fair", "kind": "product", "subject_id": f"p-{n}", "reasons": ["X"]}
        for n in range(500)
    ]
    known = {truth_key(f"fair:product:p-{n}", None): "reject" for n in range(500)}

    decided = [choose(case, known, 1, ValidReasons({"X": []})) for case in cases]

    assert decided == [choose(case, known, 1, ValidReasons({"X": []})) for case in reversed(cases)][::-1]
    assert 0.95 < sum(action == "reject" for action, _ in decided) / 500 < 1.0
    assert all(reasons == ["X"] for action, reasons in decided if action == "reject")
