"""Submission: each line gets one verdict, in order, despite failures of intake and the network."""

import asyncio
import io

import httpx
import msgspec
import pytest

from piepowder.client import Api, ApiError, problem_text
from piepowder.imports.rows import Listing, Refusal, quoted
from piepowder.submit import ItemSubmitter
from piepowder.tally import RefusalGroups
from shared.runtime.user_errors import UserError
from tests.support.command import TEST_PROFILE
from tests.support.fake_intake import FakeIntake


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The requested pauses; no test sleeps."""
    asked: list[float] = []

    async def note(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    return asked


def lines(count: int) -> list[Listing | Refusal]:
    return [Listing(number, b'"%d"' % number) for number in range(1, count + 1)]


def submitter(intake: FakeIntake) -> tuple[ItemSubmitter, io.BytesIO, io.BytesIO]:
    journal, report = io.BytesIO(), io.BytesIO()
    api = Api(TEST_PROFILE, transport=httpx.MockTransport(intake))
    return ItemSubmitter(api, journal=journal, report=report, patience=5.0), journal, report


async def test_lines_are_sent_in_chunks_in_order_and_the_journal_has_the_accepted_ones() -> None:
    intake = FakeIntake()
    sending, journal, _ = submitter(intake)

    tally = await sending.submit(lines(2500))

    assert [len(body) for body in intake.bodies] == [1000, 1000, 500]
    assert intake.accepted == [str(number) for number in range(1, 2501)]
    assert (tally.accepted, tally.refused, tally.regions) == (2500, 0, {"eu": 2500, "us": 2500})
    assert [msgspec.json.decode(line)["line"] for line in journal.getvalue().splitlines()] == list(range(1, 2501))


async def test_refusals_of_intake_and_of_the_file_are_reported_with_the_files_own_line_numbers() -> None:
    intake = FakeIntake()
    intake.status = lambda name, _: 422 if name == "7" else 202
    sending, _, report = submitter(intake)

    tally = await sending.submit([Listing(4, b'"4"'), Refusal(5, 0, "3 cells"), Listing(9, b'"7"')])

    assert (tally.accepted, tally.refused) == (1, 2)
    reported = {entry["number"]: entry["detail"] for entry in map(msgspec.json.decode, report.getvalue().splitlines())}
    assert reported == {5: "3 cells", 9: "/gtin: wrong check digit"}


async def test_refusals_of_intake_and_of_the_file_are_reported_in_the_order_of_the_lines() -> None:
    intake = FakeIntake()
    intake.status = lambda name, _: 422 if name in ("1", "5") else 202
    sending, _, report = submitter(intake)

    tally = await sending.submit(
        [Listing(1, b'"1"'), Refusal(2, 0, "cells"), Listing(3, b'"3"'), Refusal(4, 0, "x"), *lines(5)[4:]]
    )

    assert [refusal.number for refusal in tally.refusals] == [1, 2, 4, 5]
    assert [msgspec.json.decode(line)["number"] for line in report.getvalue().splitlines()] == [1, 2, 4, 5]


def test_similar_refusals_are_one_group_with_a_count_and_the_first_as_example() -> None:
    groups = RefusalGroups()
    for number in range(1, 1_291):
        groups.add(
            Refusal(number, 0, f"price (column 'price'): '{number}.500' is ambiguous: {number}500, or {number}.500")
        )
    groups.add(Refusal(7, 0, "gtin (column 'gtin'): '12' is not a GTIN"))
    groups.add(Refusal(8, 422, "gtin (column 'gtin'): '12' is not a GTIN"))

    assert groups.count == 1_292
    assert [(group.count, group.example.number) for group in groups.largest()] == [(1_290, 1), (1, 7), (1, 8)]


@pytest.mark.parametrize(
    "detail",
    [
        "price: {} is not an amount",
        "title: {} and {} differ",
        "the item's id is {}, the seller's is {}",
        "/gtin: wrong (given: {}",
    ],
)
def test_texts_of_any_length_and_with_any_mark_are_one_group(detail: str) -> None:
    groups = RefusalGroups()
    for text in ("a", "it's", 'an 8" knife', """both ' and " """, "back\\slash\\", "x" * 90 + "'", "long text " * 30):
        groups.add(Refusal(1, 0, detail.format(quoted(text), quoted(f"{text}."))))
    groups.add(Refusal(1, 0, "price: 'on request'"))
    assert [group.count for group in groups.largest()] == [7, 1]


async def test_a_lenient_submission_repeats_a_refused_line_without_its_faulty_fields_and_keeps_the_order() -> None:
    def item(name: str, **fields: object) -> bytes:
        return msgspec.json.encode({"platform": "s", "kind": "product", "id": name, "markets": ["DE"], **fields})

    sent: list[list[dict[str, object]]] = []

    def strict(request: httpx.Request) -> httpx.Response:
        bodies = [msgspec.json.decode(line) for line in request.content.splitlines()]
        sent.append(bodies)
        verdicts = []
        for number, body in enumerate(bodies, 1):
            faults = [
                {"pointer": f"/{name}", "detail": "wrong"}
                for name in ("scores", "links", "id")
                if body.get(name) == "x"
            ]
            verdict = {"line": number, "status": 422 if faults else 202, "item_id": f"i{body['id']}", "subject": "s"}
            verdicts.append(msgspec.json.encode(verdict | {"regions": ["eu"], "errors": faults, "detail": "invalid"}))
        return httpx.Response(200, content=b"\n".join(verdicts) + b"\n")

    api = Api(TEST_PROFILE, transport=httpx.MockTransport(strict))
    sending = ItemSubmitter(api, journal=io.BytesIO(), report=io.BytesIO(), lenient=True)
    bodies = [item("1"), item("2", scores="x", links="x"), item("3"), item("x"), item("2", scores="x", title="newer")]
    tally = await sending.submit([Listing(number, body) for number, body in enumerate(bodies, 1)])

    assert (tally.accepted, tally.refused, tally.incomplete) == (4, 1, 2)
    assert tally.omitted == {"scores": 2, "links": 1}
    assert [[body["id"] for body in call] for call in sent] == [["1", "2", "3", "x", "2"], ["2", "3", "x", "2"]]
    assert all("scores" not in body for body in sent[1])
    assert [refusal.number for refusal in tally.refusals] == [4]


async def test_the_lines_after_a_response_that_ends_with_a_problem_are_sent_again() -> None:
    intake = FakeIntake()
    sending, _, _ = submitter(intake)
    whole = intake.__call__

    def slow(request: httpx.Request) -> httpx.Response:
        response = whole(request)
        if len(intake.bodies) > 1:
            return response
        problem = b'{"type":"urn:piepowder:problem:too-slow","title":"x","status":408,"detail":"It came too slowly."}\n'
        return httpx.Response(200, content=b"".join(response.content.splitlines(keepends=True)[:3]) + problem)

    sending.api = Api(TEST_PROFILE, transport=httpx.MockTransport(slow))
    tally = await sending.submit(lines(5))

    assert [len(body) for body in intake.bodies] == [5, 2]
    assert (tally.accepted, tally.refused) == (5, 0)


@pytest.mark.parametrize("status", [429, 503])
async def test_after_an_overload_response_the_command_waits_as_long_as_intake_requests(
    status: int, pauses: list[float]
) -> None:
    intake = FakeIntake()
    intake.override = lambda call: httpx.Response(status, headers={"Retry-After": "3"}) if call < 3 else None
    sending, _, _ = submitter(intake)

    tally = await sending.submit(lines(3))

    assert tally.accepted == 3
    assert pauses == [3.0, 3.0]


async def test_all_lines_from_the_first_temporary_failure_are_sent_again_in_order() -> None:
    intake = FakeIntake()
    intake.status = lambda name, call: 503 if name == "3" and call == 1 else 202
    sending, journal, _ = submitter(intake)

    tally = await sending.submit(lines(5))

    assert intake.bodies[1] == [b'"3"', b'"4"', b'"5"']
    assert tally.accepted == 5
    assert len(journal.getvalue().splitlines()) == 5


async def test_the_complete_lines_of_a_truncated_response_are_used() -> None:
    intake = FakeIntake()
    whole = b"".join(
        msgspec.json.encode({"line": n, "status": 202, "item_id": f"i{n}", "subject": "s", "regions": ["eu"]}) + b"\n"
        for n in (1, 2, 3)
    )
    intake.override = lambda call: httpx.Response(200, content=whole[:-20]) if call == 1 else None
    sending, _, _ = submitter(intake)

    tally = await sending.submit(lines(4))

    assert intake.bodies[1] == [b'"3"', b'"4"']
    assert tally.accepted == 4


async def test_a_call_after_a_lost_connection_is_repeated() -> None:
    intake = FakeIntake()

    def cut(call: int) -> httpx.Response | None:
        if call == 1:
            raise httpx.ReadError("cut")
        return None

    intake.override = cut
    sending, _, _ = submitter(intake)

    assert (await sending.submit(lines(2))).accepted == 2


async def test_a_body_that_is_too_large_is_halved_down_to_the_line_that_is_too_large() -> None:
    intake = FakeIntake()
    respond = intake.__call__

    def small(request: httpx.Request) -> httpx.Response:
        if b'"3"' in request.content:
            return httpx.Response(413, json={"detail": "too large"})
        return respond(request)

    sending = ItemSubmitter(
        Api(TEST_PROFILE, transport=httpx.MockTransport(small)), journal=io.BytesIO(), report=io.BytesIO()
    )

    tally = await sending.submit(lines(5))

    assert intake.accepted == ["1", "2", "4", "5"]
    assert tally.refusals == [Refusal(3, 413, "too large")]


async def test_a_submission_that_makes_no_progress_ends_with_the_last_line_sent() -> None:
    intake = FakeIntake()
    intake.override = lambda call: httpx.Response(503, headers={"Retry-After": "30"}) if call > 1 else None
    sending, _, _ = submitter(intake)

    with pytest.raises(UserError, match=r"returned no verdict for 5 seconds.*Lines up to 1,000 were sent"):
        await sending.submit(lines(1500))


async def test_a_submission_without_any_verdict_says_that_it_waits_and_that_no_line_was_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piepowder.submit.delay", lambda *_: 0.0)
    intake = FakeIntake()
    intake.override = lambda _: httpx.Response(503)
    sending, _, _ = submitter(intake)
    sending.patience = 0.3

    with pytest.raises(UserError, match=r"returned no verdict for 0 seconds.*No line was sent; submit the file again"):
        await sending.submit(lines(3))
    waits = "intake has returned no verdict yet: HTTP status 503. Trying for up to 0 s."
    assert capsys.readouterr().err.splitlines() == [waits]


async def test_a_call_with_a_wrong_key_is_not_repeated() -> None:
    intake = FakeIntake()
    intake.override = lambda _: httpx.Response(401, json={"detail": "This API key is not known here"})
    sending, _, _ = submitter(intake)

    with pytest.raises(UserError, match="not known here"):
        await sending.submit(lines(3))
    assert len(intake.bodies) == 1


async def test_a_call_is_repeated_only_after_a_temporary_failure(pauses: list[float]) -> None:
    responses = iter(
        [httpx.Response(503), httpx.Response(429, headers={"Retry-After": "2"}), httpx.Response(200, json=7)]
    )
    api = Api(TEST_PROFILE, transport=httpx.MockTransport(lambda _: next(responses)))

    assert await api.get("intake", "/v1/totals") == 7
    assert pauses[1] == 2.0

    refusing = httpx.MockTransport(lambda _: httpx.Response(409, json={"detail": "already decided"}))
    with pytest.raises(ApiError, match="already decided"):
        await Api(TEST_PROFILE, transport=refusing).get("intake", "/v1/x")


def test_a_problem_is_shown_with_the_pointer_of_each_fault() -> None:
    assert problem_text({"detail": "no such case"}) == "no such case"
    faults = [{"pointer": "/id", "detail": "is required"}, {"pointer": "", "detail": "cut off"}]
    assert problem_text({"detail": "/id: is required", "errors": faults}) == "/id: is required; cut off"
