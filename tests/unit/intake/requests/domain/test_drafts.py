"""The rules of business requests: every fault has a pointer."""

import json
from datetime import date
from typing import Any

import pytest

from services.intake.items.domain.ownership import MarketOwnership
from services.intake.requests import api
from services.intake.requests.domain import drafts
from services.intake.requests.domain.drafts import Draft
from services.intake.requests.models import CommentBody, DraftBody, RemarkBody
from shared.contracts.events import OperatingModelPublished, Queue, Region
from shared.http.documents import Document, decode
from shared.validation.faults import InputRejected
from tests.support.documents import parsed

TODAY = date(2026, 5, 1)
COUNTRIES = frozenset({"DE", "FR", "US", "GB", "CH"})


def _region(name: str, *markets: str) -> Region:
    queue = Queue(id="general", service_level_minutes=60)
    return Region(id=name, markets=list(markets), queues=[queue], default_queue="general")


OWNERS = MarketOwnership(
    OperatingModelPublished(
        id="om-1",
        number=1,
        published_by="x",
        regions=[_region("eu", "DE", "FR"), _region("us", "US"), _region("uk", "GB")],
    ),
    ["eu", "us"],
)
POLICY_SET = {"policies": [{"id": "a", "when": ["true"], "verdict": "review"}], "default_verdict": "approve"}
DIFF = {
    "regions": [
        {
            "id": "eu",
            "markets": ["DE"],
            "queues": [{"id": "general", "service_level_minutes": 60}],
            "default_queue": "general",
        }
    ]
}


def body(**change: Any) -> dict[str, Any]:
    """A complete draft, with changed fields; None removes a field."""
    complete = {
        "title": "Look at lamps",
        "kind": "capacity",
        "sponsor": "lead",
        "regions": ["eu"],
        "markets": ["DE"],
        "expected_items_per_day": 1000,
        "expected_date": "2026-06-01",
        "rationale": "More lamps.\nMany more.",
    }
    return {name: value for name, value in (complete | change).items() if value is not None}


def read(text: bytes) -> Draft:
    return drafts.require_valid(parsed(DraftBody, Draft, text))


def patched(draft: Draft, text: bytes) -> Draft:
    return drafts.require_valid(api._patched(draft, decode(text)))


def read_reason(text: bytes) -> str:
    reason: str = api._valid(Document.parse(RemarkBody, decode(text))).reason
    return reason.strip()


def read_comment(text: bytes) -> str:
    return drafts.require_comment(api._valid(Document.parse(CommentBody, decode(text))).text)


def faults_of(given: object) -> dict[str, str]:
    """The faults of a draft, by pointer."""
    text = given if isinstance(given, bytes) else json.dumps(given).encode()
    try:
        draft = read(text)
    except InputRejected as rejection:
        return {fault.pointer: fault.detail for fault in rejection.faults}
    return {fault.pointer: fault.detail for fault in drafts.faults(draft, OWNERS, COUNTRIES, TODAY)}


def test_a_valid_draft_is_complete_and_without_faults() -> None:
    assert faults_of(body()) == {}
    assert drafts.missing(read(json.dumps(body()).encode())) == []
    assert faults_of(body(change={"policy_set": POLICY_SET, "operating_model_diff": DIFF})) == {}
    assert faults_of({"title": "x", "kind": "policy_change", "regions": ["eu"]}) == {}, "a draft may be incomplete"


@pytest.mark.parametrize(
    ("change", "pointer", "expected"),
    [
        ({"title": None}, "/title", "is required"),
        ({"title": ""}, "/title", "at least 1"),
        ({"title": "  "}, "/title", "only white space"),
        ({"title": "x" * 201}, "/title", "at most 200"),
        ({"title": "two\nlines"}, "/title", "one line"),
        ({"title": 7}, "/title", "valid string"),
        ({"title": "a\x00b"}, "/title", "U+0000"),
        ({"kind": None}, "/kind", "is required"),
        ({"kind": "policy"}, "/kind", "'new_category', 'new_market', 'policy_change', 'queue_change'"),
        ({"sponsor": "x" * 101}, "/sponsor", "at most 100"),
        ({"sponsor": "a\tb"}, "/sponsor", "one line"),
        ({"regions": None}, "/regions", "is required"),
        ({"regions": []}, "/regions", "at least 1"),
        ({"regions": "eu"}, "/regions", "valid list"),
        ({"regions": ["mars"], "markets": []}, "/regions/0", "expected one of eu, us"),
        ({"regions": ["uk"], "markets": []}, "/regions/0", "expected one of eu, us"),
        ({"regions": ["eu", "eu"]}, "/regions/1", "is repeated"),
        ({"markets": ["de"]}, "/markets/0", "write 'DE'"),
        ({"markets": ["XX"]}, "/markets/0", "not an ISO 3166-1"),
        ({"markets": ["DE", "DE"]}, "/markets/1", "is repeated"),
        ({"markets": ["US"]}, "/markets/0", "belongs to region 'us', which is not among `regions`"),
        ({"markets": ["CH"]}, "/markets/0", "no region owns market 'CH'"),
        ({"markets": ["DE"] * 301}, "/markets", "at most 300"),
        ({"kind": "new_market"}, "/markets", "without an owner"),
        ({"expected_items_per_day": -1}, "/expected_items_per_day", "greater than or equal to 0"),
        ({"expected_items_per_day": 10**9 + 1}, "/expected_items_per_day", "less than or equal to"),
        ({"expected_items_per_day": 1.5}, "/expected_items_per_day", "valid integer"),
        ({"expected_items_per_day": True}, "/expected_items_per_day", "valid integer"),
        ({"expected_items_per_day": 10**30}, "/expected_items_per_day", "64 bits"),
        ({"expected_date": "1.6.2026"}, "/expected_date", "expected for example 2026-09-01"),
        ({"expected_date": "2026-02-30"}, "/expected_date", "is not a date"),
        ({"expected_date": "20260601"}, "/expected_date", "is not a date"),
        ({"expected_date": "2026-04-29"}, "/expected_date", "not between today"),
        ({"expected_date": "2099-01-01"}, "/expected_date", "five years"),
        ({"rationale": "x" * 20_001}, "/rationale", "at most 20000"),
        ({"rationale": "a\x1bb"}, "/rationale", "U+001B"),
        ({"rationale": "a\u0085b"}, "/rationale", "U+0085"),
        ({"change": "x"}, "/change", "expected an object"),
        ({"change": {}}, "/change", "`policy_set`, `operating_model_diff` or both"),
        ({"change": {"policy": POLICY_SET}}, "/change/policy", "did you mean 'policy_set'"),
        ({"change": {"policy_set": {"policies": []}}}, "/change/policy_set/default_verdict", "is required"),
        (
            {"change": {"policy_set": POLICY_SET | {"policies": [{"id": "a", "when": "x", "verdict": "y"}]}}},
            "/change/policy_set/policies/0/when",
            "expected a list",
        ),
        (
            {"change": {"policy_set": POLICY_SET | {"terms": {"w": ["a", "b\x00"]}}}},
            "/change/policy_set/terms/w/1",
            "U+0000",
        ),
        (
            {"change": {"policy_set": POLICY_SET | {"terms": {"w\x00": []}}}},
            "/change/policy_set/terms/w\x00",
            "control character in the name",
        ),
        (
            {"regions": ["us"], "markets": [], "change": {"operating_model_diff": DIFF}},
            "/change/operating_model_diff/regions/0/id",
            "not among `regions`",
        ),
        ({"state": "approved"}, "/state", "unknown field 'state'"),
    ],
)
def test_each_fault_has_its_pointer(change: dict[str, Any], pointer: str, expected: str) -> None:
    faults = faults_of(body(**change))
    assert faults.keys() == {pointer}
    assert expected in faults[pointer]


def test_all_faults_are_reported_at_once() -> None:
    assert faults_of(body(title="", kind="x", regions=[], expectd=1)).keys() == {
        "/title",
        "/kind",
        "/regions",
        "/expectd",
    }
    assert faults_of(body(title="a\nb", markets=["XX"], expected_date="x")).keys() == {
        "/title",
        "/markets/0",
        "/expected_date",
    }


def test_a_request_for_a_new_market_names_a_market_without_an_owner() -> None:
    assert faults_of(body(kind="new_market", markets=["CH", "DE"])) == {}
    assert faults_of(body(kind="new_market", markets=["CH", "US"])).keys() == {"/markets/1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "it is empty"),
        (b'{"title": ', "not JSON"),
        (b'{"title": "\xff"}', "not UTF-8"),
        (b'{"title": "\\ud800"}', "not JSON"),
        (b'{"title": NaN}', "not JSON"),
        (b'{"title": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_malformed_json_is_rejected(text: bytes, expected: str) -> None:
    with pytest.raises(InputRejected) as raised:
        read(text)
    assert raised.value.status == 400
    assert expected in str(raised.value)


@pytest.mark.parametrize("text", [b"[]", b"null", b'"x"', b"7"])
def test_json_that_is_not_an_object_is_rejected(text: bytes) -> None:
    assert faults_of(text)[""] == "expected an object"


def test_a_duplicate_object_key_is_reported_at_every_depth() -> None:
    text = json.dumps(body(change={"policy_set": POLICY_SET})).replace('"kind"', '"title": "y", "kind"')
    assert faults_of(text.encode()) == {"/title": "duplicate object key"}
    text = json.dumps(body(change={"policy_set": POLICY_SET})).replace('"id": "a"', '"id": "b", "id": "a"')
    assert faults_of(text.encode()) == {"/change/policy_set/policies/0/id": "duplicate object key"}


def test_a_change_above_one_mebibyte_is_too_large() -> None:
    def of(size: int) -> bytes:
        policy_set = POLICY_SET | {"terms": {"w": ["x" * size]}}
        return json.dumps(body(change={"policy_set": policy_set})).encode()

    assert read(of(drafts.MAX_CHANGE_BYTES - 200)).change is not None
    with pytest.raises(InputRejected) as raised:
        read(of(drafts.MAX_CHANGE_BYTES))
    assert (raised.value.status, raised.value.faults[0].pointer) == (413, "/change")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("new_category", {"/sponsor", "/rationale", "/expected_items_per_day", "/expected_date"}),
        ("new_market", {"/sponsor", "/rationale", "/expected_items_per_day", "/expected_date"}),
        ("capacity", {"/sponsor", "/rationale", "/expected_items_per_day", "/expected_date"}),
        ("policy_change", {"/sponsor", "/rationale", "/change/policy_set"}),
        ("queue_change", {"/sponsor", "/rationale", "/change/operating_model_diff"}),
        ("service_level_change", {"/sponsor", "/rationale", "/change/operating_model_diff"}),
    ],
)
def test_the_required_fields_of_each_kind_on_submission(kind: str, missing: set[str]) -> None:
    draft = read(json.dumps({"title": "x", "kind": kind, "regions": ["eu"], "rationale": " "}).encode())
    assert {fault.pointer for fault in drafts.missing(draft)} == missing


def test_a_patch_replaces_whole_fields_and_null_removes_a_field() -> None:
    draft = read(json.dumps(body(change={"policy_set": POLICY_SET})).encode())
    changed = patched(draft, b'{"title": "Y", "change": {"operating_model_diff": {"regions": []}}, "sponsor": null}')
    assert (changed.title, changed.sponsor, changed.rationale) == ("Y", "", draft.rationale)
    assert changed.change is not None
    assert changed.change.policy_set is None
    assert patched(draft, b'{"change": null}').change is None
    assert patched(draft, b"{}") == draft
    for text, pointer in [
        (b'{"title": null}', "/title"),
        (b'{"titel": "x"}', "/titel"),
        (b'{"title": "a", "title": "b"}', "/title"),
        (b"[]", ""),
        (b'{"kind": "x"}', "/kind"),
    ]:
        with pytest.raises(InputRejected) as raised:
            patched(draft, text)
        assert [fault.pointer for fault in raised.value.faults] == [pointer]


def test_equal_changes_have_the_same_encoding_and_hash() -> None:
    a = read(json.dumps(body(change={"policy_set": POLICY_SET | {"terms": {"b": ["x"], "a": ["y"]}}})).encode())
    policy_set = {"default_verdict": "approve", "terms": {"a": ["y"], "b": ["x"]}, **POLICY_SET}
    b = read(json.dumps(body(change={"policy_set": policy_set}), indent=3).encode())
    assert drafts.content(a) == drafts.content(b)
    assert drafts.content(a).change_hash
    assert drafts.draft_of(drafts.content(a), a.change) == a


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (b'{"reason": 7}', "/reason"),
        (b'{"why": "x"}', "/why"),
        (b'{"reason": "\\u0000"}', "/reason"),
        (b'{"reason": "%s"}' % (b"x" * 5001), "/reason"),
        (b"[]", ""),
    ],
)
def test_an_invalid_reason_has_its_pointer(text: bytes, pointer: str) -> None:
    with pytest.raises(InputRejected) as raised:
        read_reason(text)
    assert [fault.pointer for fault in raised.value.faults] == [pointer]


def test_a_reason_is_optional_and_a_comment_is_required() -> None:
    assert read_reason(b"{}") == read_reason(b'{"reason": " "}') == ""
    assert read_reason(b'{"reason": " so it is\\n"}') == "so it is"
    assert read_comment(b'{"text": "How many?"}') == "How many?"
    for text in (b"{}", b'{"text": ""}', b'{"text": "  "}', b'{"text": "%s"}' % (b"x" * 5001), b'{"text": "\\u0007"}'):
        with pytest.raises(InputRejected) as raised:
            read_comment(text)
        assert raised.value.faults[0].pointer == "/text"
