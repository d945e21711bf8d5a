"""A batch call: a verdict a line, in order; the bad refused, the rest accepted; and Kafka's absence told truly."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from services.intake import codes
from services.intake.batch import MAX_BYTES, MAX_LINES, Batch
from services.intake.domain.posts import MAX_BODY_BYTES
from services.intake.group_commit import GroupCommit
from services.intake.handlers import Front
from services.intake.ndjson import Splitter
from shared.auth import Client
from shared.clock import ManualClock
from shared.errors import Poison, Transient
from shared.http import Problem
from shared.kafka.producer import Record
from tests.unit.test_intake_posts import model, published

CLOCK = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
CLIENT = Client(name="shop", key_sha256="", scopes=frozenset())


class Cluster:
    """A producer that keeps what it gets; `fails_after` so many sends, or at a value."""

    def __init__(self, *, fails_after: int = 10**9, refuses: bytes = b"\0") -> None:
        self.sends: list[int] = []
        self.keys: list[bytes] = []
        self._fails_after = fails_after
        self._refuses = refuses

    async def send(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if len(self.sends) >= self._fails_after:
            raise Transient("Kafka is away.")
        if any(self._refuses in (record.value or b"") for record in records):
            raise Poison("larger than Kafka takes")
        self.sends.append(len(records))
        self.keys.extend(record.key or b"" for record in records)


def line(n: int, **change: Any) -> bytes:
    return json.dumps({"platform": "shop", "kind": "product", "id": str(n), "markets": ["DE"]} | change).encode()


async def pieces(body: bytes, size: int = 65_536, then: Exception | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
    if then is not None:
        raise then


async def take(cluster: Cluster, stream: AsyncIterator[bytes]) -> list[dict[str, Any]]:
    lane = GroupCommit(cluster, max_records=20_000, max_bytes=2**25)
    front = Front(codes=codes.load(), lanes={"eu": lane})
    front.apply(published(model(("eu", ["DE"]))))
    return [json.loads(verdict) for verdict in (await Batch(front, CLIENT, CLOCK).take(stream)).splitlines()]


async def test_one_bad_line_among_thousands_is_named_and_the_others_are_accepted() -> None:
    lines = [line(n) for n in range(5_000)]
    lines[1234] = b'{"platform": "shop", "kind":'
    cluster = Cluster()
    verdicts = await take(cluster, pieces(b"\n".join(lines)))
    assert [verdict["line"] for verdict in verdicts] == list(range(1, 5_001))
    assert [verdict["line"] for verdict in verdicts if verdict["status"] != 202] == [1235]
    assert verdicts[1234]["status"] == 400
    assert cluster.keys == [b"shop:product:%d" % n for n in range(5_000) if n != 1234]


async def test_blank_lines_and_line_ends_of_any_system_keep_the_lines_numbers() -> None:
    body = b"\xef\xbb\xbf" + line(1) + b"\r\n\r\n  \n" + line(2) + b"\r\n" + b"nonsense"
    verdicts = await take(Cluster(), pieces(body, size=7))
    assert [(verdict["line"], verdict["status"]) for verdict in verdicts] == [(1, 202), (4, 202), (5, 400)]


async def test_versions_of_a_subject_go_to_kafka_in_the_order_of_their_lines() -> None:
    lines = [line(n % 3, version=n + 1) for n in range(2_500)]
    cluster = Cluster()
    await take(cluster, pieces(b"\n".join(lines)))
    assert cluster.keys == [b"shop:product:%d" % (n % 3) for n in range(2_500)]
    assert len(cluster.sends) == 3


async def test_a_line_over_the_limit_is_refused_alone() -> None:
    body = b"\n".join([line(1), line(2, text="x" * MAX_BODY_BYTES), line(3)])
    verdicts = await take(Cluster(), pieces(body))
    assert [verdict["status"] for verdict in verdicts] == [202, 413, 202]


async def test_a_body_without_lines_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        await take(Cluster(), pieces(b"\n \n"))
    assert caught.value.details.status == 400


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_body_with_too_many_lines_says_what_was_accepted_and_what_to_do(end: bytes) -> None:
    cluster = Cluster()
    with pytest.raises(Problem) as caught:
        await take(cluster, pieces(b"\n".join(line(n) for n in range(MAX_LINES + 1)) + end))
    assert caught.value.details.status == 413
    assert f"{MAX_LINES} were accepted" in caught.value.details.detail
    assert "Split it" in caught.value.details.detail
    assert len(cluster.keys) == MAX_LINES
    assert len(await take(Cluster(), pieces(b"\n".join(line(n) for n in range(MAX_LINES)) + end))) == MAX_LINES


async def test_a_body_with_too_many_bytes_is_read_no_further() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 2**20
            yield b"x" * 2**20

    with pytest.raises(Problem) as caught:
        await take(Cluster(), endless())
    assert caught.value.details.status == 413
    assert read == MAX_BYTES + 2**20


async def test_a_connection_cut_in_the_middle_of_a_line_does_not_take_that_line() -> None:
    cluster = Cluster()
    body = b"\n".join(line(n) for n in range(1_500))
    with pytest.raises(ClientDisconnect):
        await take(cluster, pieces(body, then=ClientDisconnect()))
    assert cluster.keys == [b"shop:product:%d" % n for n in range(1_000)]


async def test_without_kafka_the_whole_call_is_told_to_come_again() -> None:
    with pytest.raises(Problem) as caught:
        await take(Cluster(fails_after=0), pieces(b"\n".join(line(n) for n in range(3_000))))
    assert caught.value.details.status == 503
    assert caught.value.headers["Retry-After"] == "2"
    assert "Kafka is away" in caught.value.details.detail


async def test_when_kafka_goes_away_in_the_middle_the_lines_after_it_say_so_themselves() -> None:
    lines = [line(n) for n in range(3_000)]
    lines[2_500] = b"nonsense"
    cluster = Cluster(fails_after=1)
    verdicts = await take(cluster, pieces(b"\n".join(lines)))
    assert [verdict["status"] for verdict in verdicts[:1_000]] == [202] * 1_000
    late = {verdict["line"]: verdict for verdict in verdicts[1_000:]}
    assert {verdict["status"] for verdict in late.values()} == {503, 400}
    assert late[2_501]["status"] == 400
    assert late[1_001]["retry_after"] == 2
    assert len(cluster.keys) == 1_000


async def test_a_record_that_kafka_does_not_take_is_refused_alone() -> None:
    verdicts = await take(Cluster(refuses=b"GIANT"), pieces(b"\n".join([line(1), line(2, title="GIANT"), line(3)])))
    assert [verdict["status"] for verdict in verdicts] == [202, 413, 202]


@given(st.lists(st.binary(max_size=12).map(lambda text: text.replace(b"\n", b" "))), st.integers(1, 9))
def test_however_a_body_is_cut_its_lines_are_the_same(texts: list[bytes], size: int) -> None:
    body = b"\n".join(texts)
    splitter = Splitter(8)
    found = [one for start in range(0, len(body), size) for one in splitter.feed(body[start : start + size])]
    found += splitter.end()
    expected = [
        (number, None if len(text) > 8 else text)
        for number, text in enumerate(body.split(b"\n"), 1)
        if len(text) > 8 or text.strip()
    ]
    assert found == expected
