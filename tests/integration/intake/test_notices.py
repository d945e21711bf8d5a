"""Notices and appeals on real Kafka and PostgreSQL.

After 202 the topics have them, an appeal contests the decision in force, and their status is updated.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.contracts import ids, topics
from shared.contracts.envelope import Attributes, decode, encode
from shared.contracts.events import (
    APPEAL_SUBMITTED,
    CASE_CLOSED,
    CASE_OPENED,
    DECISION_MADE,
    DECISION_REPLACED,
    ITEM_SUBMITTED,
    NOTICE_SUBMITTED,
    CaseClosed,
    CaseOpened,
    Item,
    Trace,
)
from shared.kafka.producer import record
from tests.support import intake_complaints
from tests.support.intake_process import (
    Intake,
    decision,
    now,
    post,
    publish_case_event,
    rejected_item,
    running_intake,
    wait_for_complaint,
)
from tests.support.servers import Servers

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
async def intake(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Intake]:
    folder = tmp_path_factory.mktemp("notices")
    async with running_intake(servers, f"notices{os.getpid()}", folder) as running:
        yield running


async def test_after_202_each_regions_topic_has_the_notice_and_a_repetition_has_the_same_ids(intake: Intake) -> None:
    body = intake_complaints.notice(id="n1")
    answers = [await post(intake, "notices", body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    receipt = answers[0].json()
    assert receipt == answers[1].json()
    assert receipt["regions"].keys() == {intake.north, intake.south}
    for region in receipt["regions"]:
        found = [r for r in await intake.records(topics.submissions(region)) if r.key == b"shop:product:n1"]
        events = [decode(r.headers, r.key, r.value, region=region) for r in found]
        assert {event.attributes.id for event in events} == {receipt["regions"][region]["event_id"]}
        assert {event.attributes.type for event in events} == {NOTICE_SUBMITTED}
        assert events[0].data.notice.explanation == body["explanation"]


async def test_the_status_of_a_notice_is_updated_by_region_until_its_decision(intake: Intake) -> None:
    north = intake.north
    receipt = (await post(intake, "notices", intake_complaints.notice(id="n2"))).json()
    notice_id = receipt["notice_id"]
    await wait_for_complaint(intake, "notices", notice_id, north, "submitted")
    opened = CaseOpened(
        case_id=ids.case_id(notice_id, north, "notice"),
        case_type="notice",
        item_id=notice_id,
        platform="shop",
        kind="product",
        subject_id="n2",
        queue="notices",
        priority=5,
        received_at=now(),
        due_at=now(),
        verdict="review",
        trace=Trace(policy_set="ps-1", operating_model="om-1"),
        item=Item(markets=["DE"]),
    )
    await intake.publish(topics.cases(north), north, CASE_OPENED, opened, "shop:product:n2")
    assert (await wait_for_complaint(intake, "notices", notice_id, north, "in_review"))["queue"] == "notices"
    made = decision(notice_id, north, "n2", case_type="notice", action="approve")
    await publish_case_event(intake, north, DECISION_MADE, made)
    shown = await wait_for_complaint(intake, "notices", notice_id, north, "decided")
    assert (shown["decision"]["action"], shown["decision"]["decision_id"]) == ("approve", made.decision_id)
    answer = (await intake.get(f"/v1/notices/{notice_id}")).json()
    assert (answer["subject"], answer["reference"]) == ("shop:product:n2", "report-1")
    assert answer["regions"][intake.south]["status"] == "submitted"
    assert "conflict" not in answer
    assert "ada@example.org" not in json.dumps(answer)
    assert (await intake.get(f"/v1/items/{notice_id}")).status_code == 404
    assert (await intake.get(f"/v1/appeals/{notice_id}")).status_code == 404


async def test_other_content_with_the_same_reference_is_a_conflict_and_the_first_content_applies(
    intake: Intake,
) -> None:
    first = (await post(intake, "notices", intake_complaints.notice(id="n3"))).json()
    other = await post(intake, "notices", intake_complaints.notice(id="n3", ground="fraud"))
    assert (other.status_code, other.json()["notice_id"]) == (202, first["notice_id"])

    async def has_conflict() -> bool:
        return bool((await intake.get(f"/v1/notices/{first['notice_id']}")).json().get("conflict"))

    await intake.wait_until(has_conflict)


async def test_other_content_with_the_same_reference_in_another_region_is_a_conflict_too(intake: Intake) -> None:
    first = (await post(intake, "notices", intake_complaints.notice(id="n7", markets=["DE"]))).json()
    body = intake_complaints.notice(id="n7", markets=["US"], ground="fraud")
    assert (await post(intake, "notices", body)).json()["notice_id"] == first["notice_id"]
    path = f"/v1/notices/{first['notice_id']}"

    async def has_conflict() -> bool:
        return bool((await intake.get(path)).json().get("conflict"))

    await intake.wait_until(has_conflict)
    assert "conflict" not in (await intake.get(path, key="shop-north")).json()


async def test_only_the_client_that_submitted_a_notice_can_read_it_with_any_of_its_keys(intake: Intake) -> None:
    notice_id = (await post(intake, "notices", intake_complaints.notice(id="n8", markets=["DE"]))).json()["notice_id"]
    body = intake_complaints.appeal(item_id=await rejected_item(intake, "a8"))
    appeal_id = (await post(intake, "appeals", body)).json()["appeal_id"]
    for what, of, own in (("notices", notice_id, "report-1"), ("appeals", appeal_id, "complaint-1")):
        await wait_for_complaint(intake, what, of, intake.north, "submitted")
        answers = [(await intake.get(f"/v1/{what}/{of}", key=key)).json() for key in ("all", "shop-north")]
        assert answers[0].keys() == answers[1].keys()
        assert [answer["reference"] for answer in answers] == [own, own]
        assert answers[0]["received_at"] == answers[1]["received_at"] is not None
        for key in ("northern", "fair"):
            assert (await intake.get(f"/v1/{what}/{of}", key=key)).status_code == 404


async def test_an_appeal_leads_to_a_decision_that_replaces_the_first_one(intake: Intake) -> None:
    north = intake.north
    item_id = await rejected_item(intake, "a1")
    body = intake_complaints.appeal(item_id=item_id)  # the status may not have the decision yet: the call waits for it
    answers = [await post(intake, "appeals", body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    receipt = answers[0].json()
    assert receipt == answers[1].json()
    case_id = ids.case_id(item_id, north, "item")
    assert receipt["decision_id"] == ids.decision_id(case_id, 1)
    found = [r for r in await intake.records(topics.submissions(north)) if r.key == b"shop:product:a1"]
    submitted, *appealed = [decode(r.headers, r.key, r.value, region=north) for r in found]
    assert {event.attributes.type for event in appealed} == {APPEAL_SUBMITTED}
    assert {event.attributes.correlation_id for event in appealed} == {submitted.attributes.id}
    assert appealed[0].attributes.causation_id == ids.event_id(case_id, DECISION_MADE, 1)
    assert submitted.attributes.id == ids.event_id(item_id, ITEM_SUBMITTED, north)
    appeal_id = receipt["appeal_id"]
    await wait_for_complaint(intake, "appeals", appeal_id, north, "submitted")

    second = await post(intake, "appeals", body | {"reference": "complaint-2"})
    assert (second.status_code, second.json()["type"]) == (409, "urn:piepowder:problem:appeal-open")

    made = decision(appeal_id, north, "a1", case_type="appeal", action="overturn")
    await publish_case_event(intake, north, DECISION_MADE, made)
    await publish_case_event(
        intake, north, DECISION_REPLACED, decision(item_id, north, "a1", action="approve", n=2), n=2
    )
    assert (await wait_for_complaint(intake, "appeals", appeal_id, north, "decided"))["decision"][
        "action"
    ] == "overturn"
    await intake.wait_for_status(item_id, north, "approved")
    shown = await intake.status(item_id, north)
    assert shown["decision"]["decision_id"] == ids.decision_id(case_id, 2)
    answer = (await intake.get(f"/v1/appeals/{appeal_id}")).json()
    assert (answer["item_id"], answer["decision_id"]) == (item_id, receipt["decision_id"])

    old = await post(intake, "appeals", intake_complaints.appeal(decision_id=receipt["decision_id"], reference="3"))
    assert (old.status_code, old.json()["type"]) == (409, "urn:piepowder:problem:decision-replaced")
    nothing = await post(intake, "appeals", body | {"reference": "complaint-4"})
    assert (nothing.status_code, nothing.json()["errors"][0]["pointer"]) == (422, "/appellant/kind")
    again = await post(intake, "appeals", body)
    assert (again.status_code, again.json()) == (202, receipt)


async def test_a_notifier_identifies_the_contested_decision_by_its_id_or_by_the_notice(intake: Intake) -> None:
    north = intake.north
    receipt = (await post(intake, "notices", intake_complaints.notice(id="a2", markets=["DE"]))).json()
    notice_id = receipt["notice_id"]
    made = decision(notice_id, north, "a2", case_type="notice", action="approve")
    await publish_case_event(intake, north, DECISION_MADE, made)
    body = intake_complaints.appeal(appellant={"kind": "notifier"})
    not_theirs = await post(intake, "appeals", body | {"notice_id": notice_id}, key="northern")
    assert (not_theirs.status_code, not_theirs.json()["type"]) == (404, "urn:piepowder:problem:not-found")
    by_notice = await post(intake, "appeals", body | {"notice_id": notice_id})
    assert (by_notice.status_code, by_notice.json()["decision_id"]) == (202, made.decision_id), by_notice.text
    appeal_id = by_notice.json()["appeal_id"]
    await wait_for_complaint(intake, "appeals", appeal_id, north, "submitted")
    assert (await intake.get(f"/v1/appeals/{appeal_id}")).json()["notice_id"] == notice_id
    case_id = ids.case_id(appeal_id, north, "appeal")
    closed = CaseClosed(case_id=case_id, case_type="appeal", item_id=appeal_id, reason="duplicate")
    await publish_case_event(intake, north, CASE_CLOSED, closed)
    assert (await wait_for_complaint(intake, "appeals", appeal_id, north, "closed"))["reason"] == "duplicate"
    by_decision = await post(intake, "appeals", body | {"decision_id": made.decision_id, "reference": "again"})
    assert by_decision.status_code == 202, by_decision.text


async def test_undecided_and_unknown_items_get_different_and_certain_errors(intake: Intake) -> None:
    posted = (await intake.send(intake.post(id="a3"))).json()["item_id"]
    named = intake_complaints.appeal(item_id=posted, region=intake.north)
    undecided = await post(intake, "appeals", named)
    assert (undecided.status_code, undecided.json()["type"]) == (409, "urn:piepowder:problem:undecided")
    for name in ("decision_id", "item_id", "notice_id"):
        unknown = await post(intake, "appeals", intake_complaints.appeal(**{name: ids.derive("nobody", name)}))
        assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:piepowder:problem:not-found")


async def test_nobody_can_appeal_against_the_approval_of_an_item(intake: Intake) -> None:
    item_id = (await intake.send(intake.post(id="a7", markets=["DE"]))).json()["item_id"]
    made = decision(item_id, intake.north, "a7", action="approve")
    await publish_case_event(intake, intake.north, DECISION_MADE, made)
    await intake.wait_for_status(item_id, intake.north, "approved")
    by_item = await post(intake, "appeals", intake_complaints.appeal(item_id=item_id))
    assert (by_item.status_code, by_item.json()["errors"][0]["pointer"]) == (422, "/appellant/kind")
    by_decision = await post(intake, "appeals", intake_complaints.appeal(decision_id=made.decision_id))
    assert (by_decision.status_code, "can be contested" in by_decision.json()["detail"]) == (404, True)


async def test_a_key_cannot_see_decisions_of_other_regions_and_must_name_one_of_several_regions(intake: Intake) -> None:
    item_id = await rejected_item(intake, "a4", markets=("DE", "US"))
    await intake.wait_for_status(item_id, intake.north, "rejected")
    about = {"item_id": item_id}
    which = await post(intake, "appeals", intake_complaints.appeal(**about))
    assert (which.status_code, which.json()["errors"][0]["pointer"]) == (422, "/region")
    southern = await post(intake, "appeals", intake_complaints.appeal(**about, region=intake.south), key="northern")
    assert (southern.status_code, southern.json()["type"]) == (403, "urn:piepowder:problem:region-not-allowed")
    own = await post(intake, "appeals", intake_complaints.appeal(**about), key="northern")
    assert own.status_code == 202, own.text


async def test_the_appeal_window_is_a_setting_and_older_decisions_are_final(
    intake: Intake, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    item_id = ids.item_id("shop", "product", "old", "1")
    made = decision(item_id, intake.north, "old")
    attributes = Attributes(
        ids.event_id(made.case_id, DECISION_MADE, 1),
        DECISION_MADE,
        "piepowder/test",
        "2025-01-01T00:00:00.000Z",
        "shop:product:old",
        intake.north,
        ids.derive("old"),
    )
    await intake.producer.send([record(topics.decisions(intake.north), encode(attributes, made))])
    late = await post(intake, "appeals", intake_complaints.appeal(decision_id=made.decision_id))
    assert (late.status_code, late.json()["type"]) == (422, "urn:piepowder:problem:appeal-window-closed")


@pytest.mark.parametrize("what", ["notices", "appeals"])
@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"body": b""}, 400, "empty"),
        ({"body": b'{"platform": "shop"'}, 400, "not JSON"),
        ({"body": b"[]"}, 422, "expected an object"),
        ({"body": b'{"explanation": "' + b"x" * 200_000 + b'"}'}, 413, "131072 bytes"),
        ({"key": "reader"}, 403, ":write"),
        ({"headers": {"Authorization": ""}}, 401, "API key"),
        ({"headers": {"Content-Type": "text/plain"}}, 415, "expected application/json"),
    ],
)
async def test_invalid_input_gets_a_problem_with_pointers(
    intake: Intake, what: str, change: dict[str, Any], status: int, says: str
) -> None:
    answer = await post(
        intake, what, change.get("body", b"{}"), key=change.get("key", "all"), **change.get("headers", {})
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert says in answer.json()["detail"] + str(answer.json().get("errors"))


async def test_a_key_sees_only_notices_of_its_client_in_its_regions(intake: Intake) -> None:
    receipt = (await post(intake, "notices", intake_complaints.notice(id="n5"))).json()
    await wait_for_complaint(intake, "notices", receipt["notice_id"], intake.north, "submitted")
    path = f"/v1/notices/{receipt['notice_id']}"
    assert (await intake.get(path, key="nowhere")).status_code in (403, 404)
    assert (await intake.get(path, key="reader")).status_code == 403
    assert (await intake.http.get(path)).status_code == 401
    assert (await intake.get("/v1/notices/nonsense")).status_code == 404
    northern = (await intake.get(path, key="shop-north")).json()
    assert northern["regions"].keys() == {intake.north}
    refused = await post(intake, "notices", intake_complaints.notice(id="n6"), key="northern")
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (403, "/markets/1")


async def test_every_route_is_documented_with_its_errors_and_valid_examples(intake: Intake) -> None:
    document = (await intake.http.get("/openapi.json")).json()
    for path in ("/v1/notices", "/v1/appeals", "/v1/notices/{notice_id}", "/v1/appeals/{appeal_id}"):
        for operation in document["paths"][path].values():
            assert {"401", "403", "429", "503"} <= operation["responses"].keys()
            contents = [answer["content"] for answer in operation["responses"].values()]
            assert all({"example", "examples"} & content.keys() for of in contents for content in of.values()), path
    example = document["paths"]["/v1/notices"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert (await post(intake, "notices", example)).status_code == 202
    item_id = await rejected_item(intake, "documented")
    example = document["paths"]["/v1/appeals"]["post"]["requestBody"]["content"]["application/json"]["example"]
    about = ids.decision_id(ids.case_id(item_id, intake.north, "item"), 1)
    assert (await post(intake, "appeals", example | {"decision_id": about})).status_code == 202


async def test_concurrent_notices_are_each_published_once_with_their_own_id(intake: Intake) -> None:
    bodies = [intake_complaints.notice(id="many", reference=f"r-{n}", markets=["FR"]) for n in range(100)]
    answers = await asyncio.gather(*(post(intake, "notices", body) for body in bodies))
    assert {answer.status_code for answer in answers} == {202}
    found = [r for r in await intake.records(topics.submissions(intake.north)) if r.key == b"shop:product:many"]
    assert {decode(r.headers, r.key, r.value, region=intake.north).data.notice_id for r in found} == {
        answer.json()["notice_id"] for answer in answers
    }
    assert len(found) == 100
