"""The rules of notices: the elements of DSA Art. 16(2), each with a pointer, and publication in all their regions."""

import json
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest

from services.intake.items.domain import status
from services.intake.notices.domain import complaint_status
from services.intake.notices.domain.notices import NoticePost
from services.intake.notices.handlers import Notices, PreparedComplaint
from services.intake.notices.models import NoticeBody
from shared.auth.principal import Principal
from shared.contracts import grounds, ids
from shared.contracts.events import NOTICE_SUBMITTED, NoticeSubmitted
from shared.runtime.errors import Transient
from shared.validation.documents import ParsedDocument
from shared.validation.faults import InputRejected
from tests.support.documents import parsed
from tests.support.intake_cluster import Cluster
from tests.support.intake_complaints import CODES, EVERYWHERE, TIME, client, clock, intake, notice

CATEGORIES = {
    "ANIMAL_WELFARE",
    "CONSUMER_INFORMATION",
    "CYBER_VIOLENCE",
    "CYBER_VIOLENCE_AGAINST_WOMEN",
    "DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
    "ILLEGAL_OR_HARMFUL_SPEECH",
    "INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
    "NOT_SPECIFIED_NOTICE",
    "OTHER_VIOLATION_TC",
    "PROTECTION_OF_MINORS",
    "RISK_FOR_PUBLIC_SECURITY",
    "SCAMS_AND_FRAUD",
    "SELF_HARM",
    "UNSAFE_AND_PROHIBITED_PRODUCTS",
    "VIOLENCE",
}


def read(text: bytes) -> ParsedDocument[NoticePost]:
    return parsed(NoticeBody, NoticePost, text)


def rejection(text: bytes | dict[str, Any], by: Principal = EVERYWHERE) -> InputRejected:
    body = text if isinstance(text, bytes) else json.dumps(text).encode()
    with pytest.raises(InputRejected) as found:
        Notices(intake(Cluster()), CODES, clock()).prepare(read(body), by)
    return found.value


_OF_AN_EARLIER_RELEASE = {
    "platform": "shop",
    "kind": "product",
    "id": "B1/a:b",
    "markets": ["DE", "US"],
    "reporter": {"kind": "user", "name": "Ada Weber", "email": "ada@example.org"},
    "ground": "counterfeit",
    "explanation": "It bears our mark, and we have not made it.",
    "locations": ["https://shop.example/dp/B1"],
    "good_faith": True,
    "language": "en",
    "reference": "report-1",
}


async def submit(body: dict[str, Any], by: Principal = EVERYWHERE) -> tuple[PreparedComplaint, Cluster]:
    cluster = Cluster()
    return await Notices(intake(cluster), CODES, clock()).submit(read(json.dumps(body).encode()), by), cluster


async def test_a_notice_is_published_in_every_region_that_owns_a_market_with_repeatable_ids() -> None:
    accepted, cluster = await submit(notice())
    again, _ = await submit(notice())
    assert (accepted.regions, accepted.subject) == (("eu", "us"), "shop:product:B1/a:b")
    assert accepted.id == again.id == ids.notice_id("shop", accepted.subject, "report-1")
    assert accepted.event_ids == again.event_ids
    for region, event_id, event in zip(accepted.regions, accepted.event_ids, cluster.events(), strict=True):
        about = event.attributes
        assert (about.id, about.type, about.region) == (event_id, NOTICE_SUBMITTED, region)
        assert (about.correlation_id, about.causation_id) == (event_id, None)
        submitted = event.data
        assert isinstance(submitted, NoticeSubmitted)
        assert (submitted.regions, submitted.client, submitted.received_at) == (["eu", "us"], "shop", TIME)
        assert submitted.notice.category == "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS"
        assert submitted.notice.reporter.email == "ada@example.org"


async def test_reference_subject_and_client_identify_a_notice() -> None:
    first, _ = await submit(notice())
    assert (await submit(notice(explanation="It is dangerous: it caught fire.")))[0].id == first.id
    others = [notice(reference="report-2"), notice(id="B2"), notice(kind="content")]
    assert first.id not in {(await submit(other))[0].id for other in others}
    assert first.id != (await submit(notice(), client("*", name="other")))[0].id


async def test_other_content_with_the_same_id_has_another_hash() -> None:
    first, again, other = [
        (await submit(body))[0].content_hash for body in (notice(), notice(), notice(ground="fraud"))
    ]
    assert first == again != other


async def test_a_retry_of_a_notice_that_an_earlier_release_accepted_is_no_conflict() -> None:
    earlier = "30d68856380f8e9a3c1350010e680d3a788f52054875ac8a3985c4e5bead4f6e"  # of _OF_AN_EARLIER_RELEASE
    accepted, cluster = await submit(_OF_AN_EARLIER_RELEASE)
    known: list[status.StatusFacts] = []
    for event in cluster.events():
        stored = msgspec.structs.replace(event.data, content_hash=earlier)
        updates = (
            complaint_status.from_event(data, subject=accepted.subject, position=n, time=TIME)
            for n, data in enumerate((stored, event.data))
        )
        first, again = (update.facts for update in updates if update is not None)
        known.append(complaint_status.merge(first, again).case)
    assert len(known) == 2
    assert not status.conflict(known)


def test_the_body_has_every_field_of_a_notice_except_the_derived_category() -> None:
    assert set(NoticeBody.model_fields) == set(NoticePost.__struct_fields__) - {"category"}


def test_each_ground_has_a_category_of_the_dsa_and_each_category_has_a_ground() -> None:
    assert grounds.CATEGORIES.keys() == {*get_args(NoticeBody.model_fields["ground"].annotation)}
    assert {category.removeprefix("STATEMENT_CATEGORY_") for category in grounds.CATEGORIES.values()} == CATEGORIES


def reporter(**changed: Any) -> dict[str, Any]:
    known = {"kind": "user", "name": "Ada", "email": "ada@example.org"} | changed
    return {"reporter": {name: value for name, value in known.items() if value is not None}}


@pytest.mark.parametrize(
    ("changed", "pointer", "expected"),
    [
        ({"platform": "Shop"}, "/platform", "expected 1 to 63"),
        ({"platform": None}, "/platform", "is required"),
        ({"kind": "ship"}, "/kind", "Input should be 'product', 'seller' or 'content'"),
        ({"id": ""}, "/id", "at least 1"),
        ({"id": "a\nb"}, "/id", "printable"),
        ({"id": "x" * 201}, "/id", "at most 200"),
        ({"markets": []}, "/markets", "at least 1"),
        ({"markets": ["GB"]}, "/markets/0", "no region owns market 'GB'"),
        ({"markets": ["de"]}, "/markets/0", "write 'DE'"),
        ({"markets": ["DE", "DE"]}, "/markets/1", "repeated"),
        ({"reporter": None}, "/reporter", "is required"),
        ({"reporter": "Ada"}, "/reporter", "expected an object"),
        (reporter(kind="bot"), "/reporter/kind", "Input should be 'user', 'trusted_flagger' or 'authority'"),
        (reporter(name=None), "/reporter/name", "is required, except for ground 'csam'"),
        (reporter(name="  "), "/reporter/name", "is required"),
        (reporter(name="a\nb"), "/reporter/name", "printable"),
        (reporter(name="x" * 201), "/reporter/name", "at most 200"),
        (reporter(email=None), "/reporter/email", "is required, except for ground 'csam'"),
        (reporter(email="ada"), "/reporter/email", "is not an e-mail address"),
        (reporter(email="ada@example"), "/reporter/email", "is not an e-mail address"),
        (reporter(email="a b@example.org"), "/reporter/email", "is not an e-mail address"),
        (reporter(email="x" * 251 + "@a.b"), "/reporter/email", "at most 254"),
        (reporter(reference="a\tb"), "/reporter/reference", "printable"),
        (reporter(phone="1"), "/reporter/phone", "unknown field"),
        ({"ground": "spam"}, "/ground", "Input should be 'animal_welfare'"),
        ({"ground": None}, "/ground", "is required"),
        ({"explanation": "It is bad."}, "/explanation", "at least 20 characters"),
        ({"explanation": "It is bad." + " " * 30}, "/explanation", "at least 20 characters, without white space"),
        ({"explanation": "x" * 10_001}, "/explanation", "at most 10000"),
        ({"explanation": "It bears our mark \u0000 and more"}, "/explanation", "control character U+0000"),
        ({"locations": []}, "/locations", "at least 1"),
        ({"locations": None}, "/locations", "is required"),
        ({"locations": ["shop.example/1"]}, "/locations/0", "is not an http:// or https:// address"),
        ({"locations": ["https://a.b"] * 2}, "/locations/1", "is repeated"),
        ({"locations": [f"https://a.b/{n}" for n in range(21)]}, "/locations", "at most 20"),
        ({"locations": ["https://a.b/" + "x" * 2_048]}, "/locations/0", "at most 2048"),
        ({"good_faith": False}, "/good_faith", "expected true"),
        ({"good_faith": None}, "/good_faith", "is required"),
        ({"good_faith": "yes"}, "/good_faith", "valid boolean"),
        ({"language": "klingon-x-"}, "/language", "is not a BCP 47 tag"),
        ({"reference": None}, "/reference", "is required"),
        ({"reference": ""}, "/reference", "at least 1"),
        ({"reference": "   "}, "/reference", "begins or ends with a space"),
        ({"reference": "melde\u0308-1"}, "/reference", "NFC"),
        ({"id": " "}, "/id", "contains only white space"),
        ({"reference": "a\u202eb"}, "/reference", "printable"),
        ({"referense": "x"}, "/referense", "did you mean 'reference'?"),
        ({"a/b~c": "x"}, "/a~1b~0c", "unknown field"),
        ({"c" * 101: "x"}, "/" + "c" * 100, "unknown field"),
    ],
)
def test_each_fault_has_its_pointer_and_the_expected_value(
    changed: dict[str, Any], pointer: str, expected: str
) -> None:
    found = rejection(notice(**changed))
    assert (found.status, found.slug) == (422, "invalid-notice")
    assert [fault.pointer for fault in found.faults if expected in fault.detail] == [pointer], found.faults


def test_all_faults_are_reported_at_once() -> None:
    body = notice(kind="ship", good_faith=False, markets=["GB"], locations=["x"], **reporter(email="ada"))
    found = rejection(body)
    assert {fault.pointer for fault in found.faults} == {
        "/kind",
        "/good_faith",
        "/markets/0",
        "/locations/0",
        "/reporter/email",
    }


@pytest.mark.parametrize("kind", ["user", "trusted_flagger", "authority"])
async def test_offences_against_children_can_be_reported_without_a_name(kind: str) -> None:
    accepted, cluster = await submit(notice(ground="csam", reporter={"kind": kind}))
    assert accepted.regions == ("eu", "us")
    assert cluster.events()[0].data.notice.category == "STATEMENT_CATEGORY_PROTECTION_OF_MINORS"


def test_an_email_address_in_a_report_without_a_name_must_be_valid() -> None:
    found = rejection(notice(ground="csam", reporter={"kind": "user", "email": "nobody"}))
    assert [fault.pointer for fault in found.faults] == ["/reporter/email"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "empty"),
        (b'{"platform": "shop"', "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        (b'{"id": "\\ud800"}', "not JSON"),
    ],
)
def test_malformed_json_is_400(text: bytes, expected: str) -> None:
    with pytest.raises(InputRejected) as found:
        read(text)
    assert (found.value.status, found.value.slug) == (400, "malformed-json")
    assert expected in str(found.value)


def test_a_duplicate_object_key_is_rejected() -> None:
    text = json.dumps(notice()).encode().replace(b'"kind": "user"', b'"kind": "user", "kind": "authority"')
    assert [fault.pointer for fault in rejection(text).faults] == ["/reporter/kind"]


@pytest.mark.parametrize("text", [b"[]", b'"x"', b"1", b"null"])
def test_json_that_is_not_an_object_is_422(text: bytes) -> None:
    assert rejection(text).status == 422


def test_a_key_without_rights_in_one_of_the_regions_is_rejected() -> None:
    found = rejection(notice(), client("eu"))
    assert (found.status, found.slug, found.faults[0].pointer) == (403, "region-not-allowed", "/markets/1")


async def test_without_an_operating_model_notices_get_a_transient_error() -> None:
    cluster = Cluster()
    without = intake(cluster)
    without.ownership = None
    with pytest.raises(Transient, match="operating model"):
        await Notices(without, CODES, clock()).submit(read(json.dumps(notice()).encode()), EVERYWHERE)
    assert cluster.records == []


@pytest.mark.parametrize("change", [lambda b: b | {"language": "und"}, lambda b: dict(reversed(b.items()))])
async def test_equal_content_has_the_same_hash(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    body = notice(language=None)
    assert (await submit(body))[0].content_hash == (await submit(change(body)))[0].content_hash
