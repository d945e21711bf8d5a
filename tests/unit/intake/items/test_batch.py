"""Batch calls: one verdict per line, in order, while the body arrives, in limited memory, also after a disconnect."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from services.intake.items import batch as batches
from services.intake.items.batch import MAX_BYTES, MAX_LINES
from services.intake.items.domain.posts import MAX_BODY_BYTES
from services.intake.items.ndjson import LineSplitter
from shared.http.problems import Problem
from tests.support.intake_batches import batch, line, pieces, post_batch
from tests.support.intake_cluster import Cluster


async def test_one_invalid_line_among_thousands_is_reported_and_the_others_are_accepted() -> None:
    lines = [line(n) for n in range(5_000)]
    lines[1234] = b'{"platform": "shop", "kind":'
    cluster = Cluster()
    verdicts = await post_batch(cluster, pieces(b"\n".join(lines)))
    assert [verdict["line"] for verdict in verdicts] == list(range(1, 5_001))
    assert [verdict["line"] for verdict in verdicts if verdict["status"] != 202] == [1235]
    assert verdicts[1234]["status"] == 400
    assert cluster.keys == [b"shop:product:%d" % n for n in range(5_000) if n != 1234]


async def test_blank_lines_and_all_line_endings_keep_the_numbers_of_lines() -> None:
    body = b"\xef\xbb\xbf" + line(1) + b"\r\n\r\n  \n" + line(2) + b"\r\n" + b"nonsense"
    verdicts = await post_batch(Cluster(), pieces(body, size=7))
    assert [(verdict["line"], verdict["status"]) for verdict in verdicts] == [(1, 202), (4, 202), (5, 400)]


async def test_versions_of_a_subject_are_published_in_the_order_of_their_lines() -> None:
    lines = [line(n % 3, version=n + 1) for n in range(2_500)]
    cluster = Cluster()
    await post_batch(cluster, pieces(b"\n".join(lines)))
    assert cluster.keys == [b"shop:product:%d" % (n % 3) for n in range(2_500)]
    assert len(cluster.sends) == 3


async def test_only_a_line_above_the_limit_is_rejected() -> None:
    body = b"\n".join([line(1), line(2, text="x" * MAX_BODY_BYTES), line(3)])
    verdicts = await post_batch(Cluster(), pieces(body))
    assert [verdict["status"] for verdict in verdicts] == [202, 413, 202]


async def test_a_body_without_lines_is_rejected() -> None:
    with pytest.raises(Problem) as caught:
        await post_batch(Cluster(), pieces(b"\n \n"))
    assert caught.value.details.status == 400


async def test_verdicts_are_sent_while_the_body_still_arrives() -> None:
    cluster, seen_verdict = Cluster(), asyncio.Event()

    async def alternating() -> AsyncIterator[bytes]:
        for n in range(3):
            yield line(n) + b"\n" + b'{"half":'
            await seen_verdict.wait()
            seen_verdict.clear()
            yield b" 1}\n"

    stream = batch(cluster).verdicts(alternating())
    seen: list[tuple[int, int]] = []
    async with asyncio.timeout(10):
        async for part in stream:
            seen += [(verdict["line"], verdict["status"]) for verdict in map(json.loads, part.splitlines())]
            if len(seen) in (1, 3, 5):
                seen_verdict.set()
    assert seen == [(1, 202), (2, 422), (3, 202), (4, 422), (5, 202), (6, 422)]


async def test_while_a_client_reads_no_verdicts_its_body_is_not_read_and_the_memory_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "_VERDICT_BYTES", 200_000)
    cluster, read = Cluster(), 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal read
        for n in range(MAX_LINES):
            read += 1
            yield line(n) + b"\n"

    stream = batch(cluster).verdicts(counted())
    first = await anext(stream)
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert 2_000 <= read <= 4_000  # lines with unread verdicts, lines in progress, and lines read meanwhile
    assert len(cluster.keys) <= 3_000
    rest = [part async for part in stream]
    assert len(b"".join([first, *rest]).splitlines()) == MAX_LINES


async def test_a_client_that_sends_everything_before_it_reads_does_not_block() -> None:
    sent = asyncio.Event()

    async def whole() -> AsyncIterator[bytes]:
        async for piece in pieces(b"\n".join(line(n) for n in range(MAX_LINES))):
            yield piece
        sent.set()

    stream = batch(Cluster()).verdicts(whole())
    first = await anext(stream)
    await asyncio.wait_for(sent.wait(), 10)
    assert len(b"".join([first, *[part async for part in stream]]).splitlines()) == MAX_LINES


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_the_verdicts_of_too_many_lines_end_with_a_problem(end: bytes) -> None:
    cluster = Cluster()
    *verdicts, last = await post_batch(cluster, pieces(b"\n".join(line(n) for n in range(MAX_LINES + 1)) + end))
    assert [verdict["line"] for verdict in verdicts] == list(range(1, MAX_LINES + 1))
    assert (last["status"], last["type"], "line" in last) == (413, "urn:piepowder:problem:too-large", False)
    assert f"{MAX_LINES} were accepted" in last["detail"]
    assert "Split it" in last["detail"]
    assert len(cluster.keys) == MAX_LINES
    assert len(await post_batch(Cluster(), pieces(b"\n".join(line(n) for n in range(MAX_LINES)) + end))) == MAX_LINES


async def test_a_body_above_the_limit_is_not_read_further() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 2**20
            yield b" " * 2**20

    with pytest.raises(Problem, match="No item was accepted") as caught:
        await post_batch(Cluster(), endless())
    assert caught.value.details.status == 413
    assert read == MAX_BYTES + 2**20


async def paused(*first: bytes) -> AsyncIterator[bytes]:
    for piece in first:
        yield piece
    await asyncio.sleep(3600)


async def test_a_sender_that_pauses_before_its_first_line_gets_408_and_no_item_is_accepted() -> None:
    cluster = Cluster()
    with pytest.raises(Problem, match="No item was accepted") as caught:
        await post_batch(cluster, paused(line(1)), idle_seconds=0.05)
    assert (caught.value.details.status, caught.value.headers["Connection"]) == (408, "close")
    assert cluster.keys == []


async def test_a_sender_that_pauses_later_gets_its_verdicts_and_then_a_problem_with_the_counts() -> None:
    cluster = Cluster()
    *verdicts, last = await post_batch(cluster, paused(line(1) + b"\nnonsense\n", line(3)[:20]), idle_seconds=0.1)
    assert [verdict["status"] for verdict in verdicts] == [202, 400]
    assert (last["status"], "line" in last) == (408, False)
    assert "1 were accepted and 1 rejected" in last["detail"]
    assert cluster.keys == [b"shop:product:1"]


async def test_bytes_without_a_complete_line_count_as_a_pause() -> None:
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    with pytest.raises(Problem) as caught:
        await post_batch(Cluster(), trickle(), idle_seconds=0.1)
    assert caught.value.details.status == 408


async def test_lines_that_were_not_submitted_before_a_disconnect_are_ignored() -> None:
    cluster = Cluster()
    body = b"\n".join(line(n) for n in range(1_500))
    verdicts = await post_batch(cluster, pieces(body, then=ClientDisconnect()))
    assert len(verdicts) == 1_000
    assert cluster.keys == [b"shop:product:%d" % n for n in range(1_000)]


async def test_nothing_is_accepted_when_the_connection_is_cut_before_the_first_submission() -> None:
    cluster = Cluster()
    with pytest.raises(ClientDisconnect):
        await post_batch(cluster, pieces(line(1) + b"\n" + line(2), then=ClientDisconnect()))
    assert cluster.keys == []


async def test_the_body_is_not_read_further_after_the_response_is_closed() -> None:
    cluster, ended = Cluster(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            for n in itertools.count():
                yield line(n) + b"\n"
                await asyncio.sleep(0)
        finally:
            ended.set()

    stream = batch(cluster).verdicts(endless())
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(ended.wait(), 10)


async def test_lines_of_a_working_cluster_are_accepted_while_another_cluster_fails() -> None:
    clusters = {"eu": Cluster(), "us": Cluster(fails_after=0)}
    markets = (["DE"], ["US"], ["DE", "US"])
    lines = [line(n, markets=markets[n % 3]) for n in range(3_000)]
    verdicts = await post_batch(clusters, pieces(b"\n".join(lines)))
    assert [verdict["status"] for verdict in verdicts] == [202, 503, 503] * 1_000
    assert all("Region us" in verdict["detail"] for verdict in verdicts if verdict["status"] == 503)
    assert clusters["us"].keys == []
    published = set(clusters["eu"].keys)
    assert published >= {b"shop:product:%d" % n for n in range(0, 3_000, 3)}
    late = {b"shop:product:%d" % n for n in range(1_000, 3_000) if n % 3}
    assert not published & late  # after the first failure, no item is published in only one of its regions


async def test_the_whole_call_gets_503_while_kafka_does_not_respond() -> None:
    with pytest.raises(Problem) as caught:
        await post_batch(Cluster(fails_after=0), pieces(b"\n".join(line(n) for n in range(3_000))))
    assert caught.value.details.status == 503
    assert caught.value.headers["Retry-After"] == "2"
    assert "Kafka does not respond" in caught.value.details.detail


async def test_lines_after_a_failure_of_kafka_have_the_error_in_their_verdicts() -> None:
    lines = [line(n) for n in range(3_000)]
    lines[2_500] = b"nonsense"
    cluster = Cluster(fails_after=1)
    verdicts = await post_batch(cluster, pieces(b"\n".join(lines)))
    assert [verdict["status"] for verdict in verdicts[:1_000]] == [202] * 1_000
    late = {verdict["line"]: verdict for verdict in verdicts[1_000:]}
    assert {verdict["status"] for verdict in late.values()} == {503, 400}
    assert late[2_501]["status"] == 400
    assert late[1_001]["retry_after"] == 2
    assert len(cluster.keys) == 1_000


async def test_only_a_record_that_kafka_rejects_is_rejected() -> None:
    verdicts = await post_batch(
        Cluster(rejects=b"GIANT"), pieces(b"\n".join([line(1), line(2, title="GIANT"), line(3)]))
    )
    assert [verdict["status"] for verdict in verdicts] == [202, 413, 202]


@given(st.lists(st.binary(max_size=12).map(lambda text: text.replace(b"\n", b" "))), st.integers(1, 9))
@example([b"\xef\xbb\xbf"], 1)
@example([b"\xef\xbb\xbf", b"x"], 1)
def test_the_lines_do_not_depend_on_the_pieces_of_the_body(texts: list[bytes], size: int) -> None:
    body = b"\n".join(texts)
    splitter = LineSplitter(8)
    found = [line_ for start in range(0, len(body), size) for line_ in splitter.feed(body[start : start + size])]
    found += splitter.end()
    expected = [
        (number, None if len(text) > 8 else text)
        for number, text in enumerate(body.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)
        if len(text) > 8 or text.strip()
    ]
    assert found == expected
