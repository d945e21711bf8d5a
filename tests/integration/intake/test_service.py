"""Intake as a process on real Kafka and PostgreSQL.

After 202 the topic of every region has the item. Invalid input and missing dependencies are reported. The status is
updated by every event on the topics.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event

from deploy.local.ports import free_ports
from shared.contracts import ids, topics
from shared.contracts.events import (
    CASE_CLOSED,
    CASE_OPENED,
    DECISION_MADE,
    ITEM_SUBMITTED,
    ITEM_WITHDRAWN,
    CaseClosed,
)
from shared.kafka.producer import Record
from shared.runtime.clock import SystemClock, to_text
from tests.support.intake_process import NDJSON, Intake, case_of, decision_on, new_regions, running_intake
from tests.support.servers import Servers

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
async def intake(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Intake]:
    async with running_intake(servers, f"intake{os.getpid()}", tmp_path_factory.mktemp("intake")) as running:
        yield running


async def test_after_202_each_regions_topic_has_the_item_and_the_official_sdk_reads_it(intake: Intake) -> None:
    answer = await intake.send(intake.post(id="sdk", title="Lämpchen"))
    assert answer.status_code == 202, answer.text
    receipt = answer.json()
    assert receipt["regions"].keys() == {intake.north, intake.south}
    for region in (intake.north, intake.south):
        [found] = [r for r in await intake.records(topics.submissions(region)) if r.key == b"shop:product:sdk"]
        event = from_binary_event(KafkaMessage(dict(found.headers), found.key, found.value or b""))
        assert event.get_id() == receipt["regions"][region]["event_id"]
        assert (event.get_type(), event.get_subject()) == (ITEM_SUBMITTED, "shop:product:sdk")
        data: Any = event.get_data()
        assert data["item_id"] == receipt["item_id"]
        assert data["item"]["title"] == "Lämpchen"


async def test_a_repeated_post_gets_the_same_response(intake: Intake) -> None:
    body = intake.post(id="again")
    first = await intake.send(body)
    second = await intake.send(dict(reversed(body.items())))
    assert first.status_code == second.status_code == 202
    assert first.json() == second.json()
    found = [r for r in await intake.records(topics.submissions(intake.north)) if r.key == b"shop:product:again"]
    assert len({dict(r.headers)["ce_id"] for r in found}) == 1


async def test_one_invalid_line_among_thousands_is_reported_and_the_others_are_in_kafka(intake: Intake) -> None:
    lines = [json.dumps(intake.post(id=f"bulk-{n}", markets=["FR"])) for n in range(3_000)]
    lines[1776] = lines[1776].replace('"FR"', '"GB"')
    answer = await intake.send("\n".join(lines).encode(), kind=NDJSON)
    assert answer.status_code == 200
    verdicts = [json.loads(line) for line in answer.text.splitlines()]
    assert [verdict["line"] for verdict in verdicts] == list(range(1, 3_001))
    [bad] = [verdict for verdict in verdicts if verdict["status"] != 202]
    assert (bad["line"], bad["status"], bad["errors"][0]["pointer"]) == (1777, 422, "/markets/0")
    keys = {record.key for record in await intake.records(topics.submissions(intake.north))}
    assert {b"shop:product:bulk-%d" % n for n in range(3_000)} - keys == {b"shop:product:bulk-1776"}


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"body": b""}, 400, "empty"),
        ({"body": b'{"platform": "shop"'}, 400, "truncated"),
        ({"body": b"\xff"}, 400, "not JSON"),
        ({"post": {"markets": ["GB"]}}, 422, "the operating model has DE, FR, SG, US"),
        ({"post": {"markets": ["SG"]}}, 422, "belongs to region 'elsewhere'"),
        ({"post": {"markets": None}}, 422, "/markets"),
        ({"post": {"titel": "x"}}, 422, "did you mean 'title'?"),
        ({"post": {"text": "x" * 60_000}}, 422, "/text"),
        ({"post": {"text": "x" * 2_000_000}}, 413, "256 KiB"),
        ({"post": {}, "key": "northern"}, 403, "/markets/1"),
        ({"post": {}, "key": "nowhere"}, 403, "may act in mars"),
        ({"post": {}, "key": "fair"}, 403, "/platform"),
        ({"post": {}, "key": "reader"}, 403, "items:write"),
        ({"post": {}, "headers": {"Authorization": ""}}, 401, "API key"),
        ({"post": {}, "headers": {"Authorization": "Bearer pp_test_wrong"}}, 401, "mistyped"),
        ({"post": {}, "headers": {"Content-Type": "text/plain"}}, 415, "expected application/json"),
        ({"post": {}, "headers": {"Content-Encoding": "br"}}, 415, "expected gzip or zstd"),
        ({"body": b"plain", "headers": {"Content-Encoding": "gzip"}}, 400, "is not gzip"),
    ],
)
async def test_invalid_input_gets_a_problem_with_pointers(
    intake: Intake, change: dict[str, Any], status: int, says: str
) -> None:
    body = change["body"] if "body" in change else json.dumps(intake.post(**change["post"])).encode()
    headers = {"Authorization": f"Bearer {intake.keys[change.get('key', 'all')]}", "Content-Type": "application/json"}
    answer = await intake.http.post("/v1/items", content=body, headers=headers | change.get("headers", {}))
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert says in problem["detail"] + str(problem.get("errors"))
    assert problem["type"].startswith("urn:piepowder:problem:")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
async def test_a_huge_body_without_a_length_is_rejected_without_buffering(intake: Intake) -> None:
    async def spaces() -> AsyncIterator[bytes]:
        for _ in range(100 * 16):
            yield b" " * 2**16

    headers = {"Authorization": f"Bearer {intake.keys['all']}", "Content-Type": "application/json"}
    before = intake.resident_mib()
    answer = await intake.http.post("/v1/items", content=spaces(), headers=headers)
    assert answer.status_code == 413
    assert intake.resident_mib() - before < 20


@pytest.mark.parametrize(("path", "kind"), [("/v1/items", "application/json"), ("/v1/items/batch", NDJSON)])
async def test_the_last_line_of_a_cut_off_body_is_ignored_without_an_internal_error(
    intake: Intake, path: str, kind: str
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", intake.port)
    whole = json.dumps(intake.post(id="cut")).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {intake.keys['all']}\r\nContent-Type: {kind}\r\n"
    writer.write(head.encode() + b"Content-Length: 9999\r\n\r\n" + whole)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    line = 'status="499"'

    async def counted() -> bool:
        samples = (await intake.http.get("/metrics")).text.splitlines()
        return any(f'route="{path}"' in sample and line in sample for sample in samples)

    await intake.wait_until(counted)
    assert b"shop:product:cut" not in {r.key for r in await intake.records(topics.submissions(intake.north))}
    assert "a defect" not in intake.log.read_text()


async def test_the_status_of_an_item_is_updated_in_each_region(intake: Intake) -> None:
    north, subject = intake.north, "shop:product:followed"
    item_id = (await intake.send(intake.post(id="followed"))).json()["item_id"]
    await intake.wait_for_status(item_id, north, "submitted")
    await intake.publish(topics.cases(north), north, CASE_OPENED, case_of(item_id), subject)
    await intake.wait_for_status(item_id, north, "in_review")
    await intake.publish(topics.decisions(north), north, DECISION_MADE, decision_on(item_id), subject)
    await intake.wait_for_status(item_id, north, "rejected")
    answer = (await intake.get(f"/v1/items/{item_id}")).json()
    assert (answer["subject"], answer["version"]) == (subject, 1)
    assert answer["regions"][intake.south]["status"] == "submitted"
    in_north = answer["regions"][north]
    assert (in_north["queue"], in_north["verdict"], in_north["decision"]["reasons"]) == ("q", "review", ["WEAPONS"])
    assert (in_north["decision"]["reviewer"], in_north["decision"]["automated"]) == ("r-1", False)
    lag = answer["projection"]["lag_seconds"]
    async with asyncio.timeout(60):
        while lag is None:  # the lag is unknown until every partition was read once
            await asyncio.sleep(0.1)
            lag = (await intake.get(f"/v1/items/{item_id}")).json()["projection"]["lag_seconds"]
    assert 0 <= lag < 10
    totals = (await intake.get("/v1/totals")).json()
    assert totals["regions"][north]["rejected"] >= 1


async def test_an_item_is_withdrawn_in_every_region_and_a_repetition_gets_the_same_response(intake: Intake) -> None:
    posted = (await intake.send(intake.post(id="back"))).json()  # withdrawn before the projection has it
    answers = [await intake.withdraw(posted["item_id"], reason=reason) for reason in ("sold", "", "sold twice")]
    assert [answer.status_code for answer in answers] == [202] * 3, answers[0].text
    receipt = answers[0].json()
    assert receipt == answers[1].json() == answers[2].json()
    assert receipt.keys() == {"item_id", "subject", "regions", "status_url"}
    assert (receipt["item_id"], receipt["subject"]) == (posted["item_id"], "shop:product:back")
    assert receipt["regions"].keys() == {intake.north, intake.south}
    for region in (intake.north, intake.south):
        found = [r for r in await intake.records(topics.submissions(region)) if r.key == b"shop:product:back"]
        first, *others = [from_binary_event(KafkaMessage(dict(r.headers), r.key, r.value or b"")) for r in found]
        assert first.get_type() == ITEM_SUBMITTED
        assert {(event.get_type(), event.get_id()) for event in others} == {
            (ITEM_WITHDRAWN, receipt["regions"][region]["event_id"])
        }
        assert {event.get_extension("correlationid") for event in others} == {first.get_id()}
        withdrawn: Any = others[0].get_data()
        assert (withdrawn["client"], withdrawn["reason"], withdrawn["version"]) == ("shop", "sold", 1)


async def test_the_status_has_a_withdrawal_and_the_time_when_it_took_effect(intake: Intake) -> None:
    north, subject = intake.north, "shop:product:ended"
    item_id = (await intake.send(intake.post(id="ended", markets=["DE"]))).json()["item_id"]
    await intake.publish(topics.cases(north), north, CASE_OPENED, case_of(item_id), subject)
    await intake.wait_for_status(item_id, north, "in_review")
    assert (await intake.withdraw(item_id, reason="sold")).status_code == 202

    async def known() -> bool:
        return "withdrawn_at" in await intake.status(item_id, north)

    await intake.wait_until(known)
    assert (await intake.status(item_id, north))["status"] == "in_review"
    closed = CaseClosed(case_id=case_of(item_id).case_id, item_id=item_id, reason="withdrawn")
    await intake.publish(topics.decisions(north), north, CASE_CLOSED, closed, subject)
    await intake.wait_for_status(item_id, north, "withdrawn")
    assert (await intake.status(item_id, north))["reason"] == "sold"
    assert (await intake.get("/v1/totals")).json()["regions"][north]["withdrawn"] >= 1


async def test_the_withdrawal_of_an_unknown_item_gets_a_certain_404(intake: Intake) -> None:
    for item_id in (ids.derive("nobody"), "nonsense"):
        answer = await intake.withdraw(item_id)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:piepowder:problem:not-found"), answer.text


async def test_a_query_that_is_not_utf_8_is_rejected_without_effect(intake: Intake) -> None:
    item_id = (await intake.send(intake.post(id="asked", markets=["DE"]))).json()["item_id"]
    await intake.wait_for_status(item_id, intake.north, "submitted")
    headers = {"Authorization": f"Bearer {intake.keys['all']}"}
    for method, url in (("DELETE", f"/v1/items/{item_id}?reason=%ff"), ("GET", "/v1/items?reference=%ed%a0%80")):
        answer = await intake.http.request(method, url, headers=headers)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query"), answer.text
    assert (await intake.status(item_id, intake.north))["status"] == "submitted"


async def test_a_key_withdraws_an_item_in_all_of_its_regions_or_in_none(intake: Intake) -> None:
    both = (await intake.send(intake.post(id="shared"))).json()["item_id"]
    own = (await intake.send(intake.post(id="own", markets=["DE"]), key="northern")).json()["item_id"]
    refused = await intake.withdraw(both, key="northern")
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:piepowder:problem:region-not-allowed")
    assert intake.south in refused.json()["detail"]
    assert (await intake.withdraw(both, key="nowhere")).status_code == 403
    assert (await intake.withdraw(both, key="reader")).status_code == 403
    assert (await intake.http.delete(f"/v1/items/{both}")).status_code == 401
    assert (await intake.withdraw(own, key="northern")).status_code == 202
    types = {dict(r.headers)["ce_type"] for r in await intake.records(topics.submissions(intake.north))
             if r.key == b"shop:product:shared"}  # fmt: skip
    assert types == {ITEM_SUBMITTED.encode()}


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"reason": "x" * 501}, "/query/reason"),
        ({"reason": "a\nb"}, "/query/reason"),
        ({"reasons": "sold"}, "/query/reasons"),
    ],
)
async def test_an_invalid_reason_is_reported_with_its_pointer(
    intake: Intake, params: dict[str, str], pointer: str
) -> None:
    answer = await intake.withdraw(ids.derive("nobody"), **params)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_other_content_with_the_same_version_is_a_conflict_and_the_first_content_applies(intake: Intake) -> None:
    first = (await intake.send(intake.post(id="clash", title="One"))).json()
    second = (await intake.send(intake.post(id="clash", title="Two"))).json()
    assert first["item_id"] == second["item_id"]
    assert first["content_hash"] != second["content_hash"]

    async def has_conflict() -> bool:
        return bool((await intake.get(f"/v1/items/{first['item_id']}")).json().get("conflict"))

    await intake.wait_until(has_conflict)


async def test_the_response_to_other_content_under_a_used_version_says_conflict_also_after_a_restart(
    intake: Intake,
) -> None:
    first = (await intake.send(intake.post(id="used", title="One"))).json()
    second = (await intake.send(intake.post(id="used", title="Two"))).json()
    assert ("conflict" in first, second.get("conflict")) == (False, True)
    assert "conflict" not in (await intake.send(intake.post(id="used", title="One"))).json()
    lines = [intake.post(id="used", title=title) for title in ("One", "Three", "Two")]
    lines += [intake.post(id="used", version=2, title=title) for title in ("One", "Two", "Two")]
    body = "\n".join(map(json.dumps, lines)).encode()
    verdicts = (await intake.send(body, kind=NDJSON)).text.splitlines()
    assert [json.loads(verdict).get("conflict") for verdict in verdicts] == [None, True, True, None, True, True]

    await intake.wait_for_status(first["item_id"], intake.north, "submitted")
    await intake.wait_for_status(json.loads(verdicts[3])["item_id"], intake.north, "submitted")
    assert await intake.stop() == 0
    await intake.start()
    await intake.ready()
    assert "conflict" not in (await intake.send(intake.post(id="used", title="One"))).json()
    assert (await intake.send(intake.post(id="used", title="Four"))).json()["conflict"] is True
    verdicts = (await intake.send(body, kind=NDJSON)).text.splitlines()
    assert [json.loads(verdict).get("conflict") for verdict in verdicts] == [None, True, True, None, True, True]


async def test_content_without_a_version_never_conflicts_and_regions_of_other_keys_are_not_compared(
    intake: Intake,
) -> None:
    for title in ("One", "Two"):
        body = {name: value for name, value in intake.post(id="free", title=title).items() if name != "version"}
        assert "conflict" not in (await intake.send(body)).json()
    south = intake.post(id="apart", markets=["US"], title="Secret")
    north = intake.post(id="apart", markets=["DE"], title="Lamp")
    item_id = (await intake.send(south)).json()["item_id"]
    await intake.wait_for_status(item_id, intake.south, "submitted")
    assert "conflict" not in (await intake.send(north, key="northern")).json()
    assert (await intake.send(north)).json()["conflict"] is True


async def test_a_request_time_is_in_the_event_in_utc_and_changes_no_id(intake: Intake) -> None:
    plain = (await intake.send(intake.post(id="timed"))).json()
    headers = {"Authorization": f"Bearer {intake.keys['all']}", "Request-Time": "2026-05-01T11:30:00.25+02:00"}
    timed = await intake.http.post("/v1/items", json=intake.post(id="timed"), headers=headers)
    assert (timed.status_code, timed.json()) == (202, plain)
    line = json.dumps(intake.post(id="timed-line"))
    kind = {"Content-Type": NDJSON}
    batch = await intake.http.post("/v1/items/batch", content=line, headers=headers | kind)
    assert json.loads(batch.text)["status"] == 202
    records = await intake.records(topics.submissions(intake.north))
    data = [json.loads(record.value) for record in records if b'"timed' in record.value]
    found = [(each["subject_id"], each.get("requested_at")) for each in data]
    found.sort(key=itemgetter(0))  # only the order of one subject's records is promised
    assert found == [("timed", None), ("timed", "2026-05-01T09:30:00.250Z"), ("timed-line", "2026-05-01T09:30:00.250Z")]


@pytest.mark.parametrize(
    "time", ["", "now", "2026-05-01", "2026-05-01T09:30:00", "20260501T093000Z", "1777627800", "9998-01-01T00:00:00Z"]
)
@pytest.mark.parametrize("path", ["/v1/items", "/v1/items/batch"])
async def test_an_invalid_request_time_is_rejected_with_its_place(intake: Intake, path: str, time: str) -> None:
    kind = "application/json" if path == "/v1/items" else NDJSON
    headers = {"Authorization": f"Bearer {intake.keys['all']}", "Content-Type": kind, "Request-Time": time}
    body = json.dumps(intake.post(id="mistimed"))
    response = await intake.http.post(path, content=body, headers=headers)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["pointer"] == "/header/request-time"
    twice = [*headers.items(), ("Request-Time", "2026-05-01T09:30:00Z"), ("Request-Time", "2026-05-01T09:30:00Z")]
    again = await intake.http.post(path, content=body, headers=[pair for pair in twice if pair[1] != time or not time])
    assert again.status_code == 422


async def test_other_content_in_another_region_is_a_conflict_for_keys_that_see_both_regions(intake: Intake) -> None:
    lamp = (await intake.send(intake.post(id="split", title="Desk lamp", markets=["DE"]))).json()
    knife = (await intake.send(intake.post(id="split", title="Switchblade", markets=["US"]))).json()
    assert lamp["item_id"] == knife["item_id"]
    path = f"/v1/items/{lamp['item_id']}"

    async def has_conflict() -> bool:
        return bool((await intake.get(path)).json().get("conflict"))

    await intake.wait_until(has_conflict)
    listed = (await intake.get("/v1/subjects/shop/product/split")).json()["versions"]
    assert [version["conflict"] for version in listed] == [True]
    assert "conflict" not in (await intake.get(path, key="northern")).json()


async def test_a_dead_lettered_item_has_the_reason_and_invalid_dead_letters_stop_nothing(intake: Intake) -> None:
    north = intake.north
    item_id = (await intake.send(intake.post(id="dead", markets=["DE"]))).json()["item_id"]
    await intake.wait_for_status(item_id, north, "submitted")
    [original] = [r for r in await intake.records(topics.submissions(north)) if r.key == b"shop:product:dead"]
    letter = [
        *original.headers,
        ("dl_reason", b"no case could be made"),
        ("dl_group", f"piepowder-router-{north}".encode()),
        ("dl_topic", original.topic.encode()),
        ("dl_partition", b"0"),
        ("dl_offset", str(original.offset).encode()),
        ("dl_time", to_text(SystemClock().now()).encode()),
    ]
    other = [(name, b"piepowder-audit-x" if name == "dl_group" else value) for name, value in letter]
    topic = topics.deadletters(north)
    garbage = [
        Record(topic, None, None, []),
        Record(topic, b"\xff", b"\xff\x00", [("dl_group", b"\xff"), ("ce_type", b"\xff")]),
        Record(topic, b"x", b'{"item_id": "no uuid"}', letter),
        Record(topic, b"x", b'{"item_id": ' + b"[" * 5000, letter),
        Record(topic, b"x", original.value, [(n, b"many" if n == "dl_offset" else v) for n, v in letter]),
        Record(topic, original.key, original.value, other),
    ]
    before = len(await intake.records(topic))
    await intake.producer.send([*garbage, Record(topic, original.key, original.value, letter)])
    await intake.wait_for_status(item_id, north, "dead_lettered")
    assert (await intake.status(item_id, north))["reason"] == "no case could be made"
    assert len(await intake.records(topic)) == before + len(garbage) + 1
    assert f'unattributed_deadletters_total{{region="{north}"}} 3.0' in (await intake.http.get("/metrics")).text
    await intake.publish(topics.cases(north), north, CASE_OPENED, case_of(item_id), "shop:product:dead")
    await intake.wait_for_status(item_id, north, "in_review")


async def test_a_key_sees_only_items_and_totals_of_its_regions(intake: Intake) -> None:
    item_id = (await intake.send(intake.post(id="seen"))).json()["item_id"]
    await intake.wait_for_status(item_id, intake.north, "submitted")
    assert (await intake.get(f"/v1/items/{item_id}", key="nowhere")).status_code == 403
    assert "regions" not in (await intake.get("/v1/totals", key="nowhere")).json()
    assert (await intake.get("/v1/items/nonsense")).status_code == 404
    assert (await intake.http.get(f"/v1/items/{item_id}")).status_code == 401


async def test_every_route_is_documented_with_its_errors_and_an_example(intake: Intake) -> None:
    document = (await intake.http.get("/openapi.json")).json()
    routes = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert routes >= {
        ("post", "/v1/items"),
        ("post", "/v1/items/batch"),
        ("get", "/v1/items/{item_id}"),
        ("delete", "/v1/items/{item_id}"),
        ("get", "/v1/totals"),
    }
    for path, methods in document["paths"].items():
        for operation in methods.values() if path.startswith("/v1/") else ():
            assert {"401", "403", "503"} <= operation["responses"].keys()
            assert all(
                {"example", "examples"} & content.keys()
                for answer in operation["responses"].values()
                for content in answer["content"].values()
            )
    example = document["paths"]["/v1/items"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert (await intake.send(example)).status_code == 202


async def test_items_are_accepted_while_the_database_is_stopped_and_readyz_names_it(kafka: str, tmp_path: Path) -> None:
    regions, control = await new_regions(kafka, f"away{os.getpid()}")
    nowhere = f"postgresql://nobody@127.0.0.1:{free_ports(1)[0]}/nothing"
    running = Intake(kafka, nowhere, regions, control, tmp_path)
    await running.start()
    try:

        async def has_no_rules() -> bool:
            conditions = (await running.readyz())["conditions"]
            return "no operating model" in conditions.get("control", "") and conditions.get("database") != "ok"

        await running.wait_until(has_no_rules)
        answer = await running.send(running.post())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert "no operating model is published" in answer.json()["detail"]
        await running.publish_operating_model()

        async def accepts() -> bool:
            return (await running.send(running.post())).status_code == 202

        await running.wait_until(accepts)
        assert not (await running.readyz())["ready"]
        status = await running.get("/v1/totals")
        assert (status.status_code, status.headers["Retry-After"]) == (503, "2")
        back = await running.withdraw(ids.derive("any"))
        assert (back.status_code, back.headers["Retry-After"]) == (503, "2")
    finally:
        assert await running.stop() == 0
        await running.http.aclose()
        await running.producer.stop()


async def test_posts_get_503_while_kafka_is_stopped_and_no_item_is_published_partly(kafka: str, tmp_path: Path) -> None:
    regions, control = await new_regions(kafka, f"dark{os.getpid()}")
    dark = json.dumps({regions[1]: f"127.0.0.1:{free_ports(1)[0]}"})
    running = Intake(kafka, "postgresql://nobody@127.0.0.1:1/nothing", regions, control, tmp_path)
    await running.publish_operating_model()
    await running.start(PIEPOWDER_KAFKA_BY_REGION=dark, PIEPOWDER_ACKNOWLEDGE_SECONDS="1")
    try:

        async def accepts() -> bool:
            return (await running.send(running.post(markets=["DE"]))).status_code == 202

        await running.wait_until(accepts)
        answer = await running.send(running.post())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert f"Region {running.south} did not acknowledge" in answer.json()["detail"]
        lines = b"\n".join(json.dumps(running.post(id=str(n))).encode() for n in range(2_000))
        answer = await running.send(lines, kind=NDJSON)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        good = b"\n".join(json.dumps(running.post(id=str(n), markets=["DE"])).encode() for n in range(1_000))
        answer = await running.send(good + b"\n" + lines, kind=NDJSON)
        verdicts = [json.loads(line) for line in answer.text.splitlines()]
        assert [verdict["status"] for verdict in verdicts] == [202] * 1_000 + [503] * 2_000
        assert verdicts[-1]["retry_after"] == 2
        keys = {record.key for record in await running.records(topics.submissions(running.north))}
        assert keys >= {b"shop:product:%d" % n for n in range(1_000)}
        assert not keys & {b"shop:product:%d" % n for n in range(1_000, 2_000)}
    finally:
        assert await running.stop() == 0
        await running.http.aclose()
        await running.producer.stop()
