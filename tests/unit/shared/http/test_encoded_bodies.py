"""Compressed request bodies: decoded like plain ones; bombs, truncated and slow bodies are rejected."""

import asyncio
import gzip
import itertools
import json
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from services.intake.items.domain.posts import MAX_BODY_BYTES, too_large
from shared.http import encoded_bodies
from shared.http.problems import Problem
from shared.validation.faults import InputRejected
from tests.support.intake_batches import line, post_batch
from tests.support.intake_cluster import Cluster

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}


def request(body: bytes | Sequence[bytes], *, size: int = 65_536, ends: bool = True, **headers: str) -> Request:
    """A request with a body in pieces; without `ends`, the body never ends."""
    if isinstance(body, bytes):
        body = [body[start : start + size] for start in range(0, len(body), size)]
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in body]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if not ends:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw}, receive)


def opened(call: Request) -> AsyncIterator[bytes]:
    return encoded_bodies.pieces(call, encoded_bodies.head(call))


async def whole(call: Request, idle_seconds: float = 30) -> bytes:
    return await encoded_bodies.whole(
        call, encoded_bodies.head(call), idle_seconds, limit=MAX_BODY_BYTES, too_large=too_large
    )


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "zstd", "identity, zstd", "identity", ""])
async def test_a_body_is_the_same_with_every_coding(coding: str) -> None:
    text = json.dumps({"id": "ä" * 3_000}).encode()
    compress = CODINGS.get({"x-gzip": "gzip", "identity, zstd": "zstd"}.get(coding, coding.lower()), bytes)
    assert await whole(request(compress(text), size=7, content_encoding=coding)) == text


@pytest.mark.parametrize("size", [1, 700, 10_000])
async def test_zero_bytes_after_a_gzip_member_are_padding(size: int) -> None:
    stream = gzip.compress(b'{"id": ') + bytes(512) + gzip.compress(b'"1"}') + bytes(1_000)
    assert await whole(request(stream, size=size, content_encoding="gzip")) == b'{"id": "1"}'
    with pytest.raises(Problem, match="is damaged"):
        await whole(request(stream + b"\0more", size=size, content_encoding="gzip"))


@given(st.sampled_from(sorted(CODINGS)), st.lists(st.binary(max_size=300_000), min_size=1, max_size=3), st.integers(1))
def test_the_pieces_of_a_stream_do_not_change_the_body(coding: str, parts: list[bytes], seed: int) -> None:
    generator = random.Random(seed)
    stream = b"".join(CODINGS[coding](part) for part in parts)
    cuts = [0, *sorted(generator.choices(range(len(stream) + 1), k=generator.randint(0, 20))), len(stream)]

    async def read() -> bytes:
        pieces = [stream[start:end] for start, end in itertools.pairwise(cuts)]
        return b"".join([piece async for piece in opened(request(pieces, content_encoding=coding))])

    assert asyncio.run(read()) == b"".join(parts)


@pytest.mark.parametrize("coding", sorted(CODINGS))
@pytest.mark.parametrize("size", [0, 65_535, 65_536, 65_537, 131_072, 262_144])
@pytest.mark.parametrize("parts", [1, 2])
async def test_a_body_that_fills_the_decompression_buffer_is_complete(coding: str, size: int, parts: int) -> None:
    text = b"x" * size
    stream = CODINGS[coding](text) * parts
    assert b"".join([piece async for piece in opened(request(stream, content_encoding=coding))]) == text * parts


@pytest.mark.parametrize("coding", sorted(CODINGS))
async def test_a_compressed_batch_gets_the_same_verdicts_as_a_plain_one(coding: str) -> None:
    lines = [line(n) for n in range(2_500)]
    lines[7] = b"nonsense"
    call = request(CODINGS[coding](b"\n".join(lines)), size=1_000, content_encoding=coding)
    verdicts = await post_batch(Cluster(), opened(call))
    assert [verdict["status"] for verdict in verdicts] == [400 if n == 7 else 202 for n in range(2_500)]


@pytest.mark.parametrize("coding", sorted(CODINGS))
async def test_a_decompression_bomb_is_rejected_at_the_limit(coding: str) -> None:
    bomb, longest = CODINGS[coding](b"\n" * 2**28), 0

    async def read_all() -> None:
        nonlocal longest
        async for piece in opened(request(bomb, content_encoding=coding)):
            longest = max(longest, len(piece))

    with pytest.raises(Problem, match="above 200") as caught:
        await read_all()
    assert caught.value.details.status == 413
    assert 0 < longest <= 65_536
    with pytest.raises(InputRejected, match="256 KiB"):
        await whole(request(bomb, content_encoding=coding))


async def test_a_zstd_stream_that_needs_more_than_8_mib_is_rejected() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    greedy = compressor.compress(b"x" * 100) + compressor.flush()
    with pytest.raises(Problem) as caught:
        await whole(request(greedy, content_encoding="zstd"))
    assert caught.value.details.status == 400


@pytest.mark.parametrize("coding", sorted(CODINGS))
@pytest.mark.parametrize("cut", [0, 1, 10, -1])
async def test_a_truncated_stream_is_rejected(coding: str, cut: int) -> None:
    stream = CODINGS[coding](b"x" * 1_000)[:cut]
    with pytest.raises(Problem, match="ends in the middle") as caught:
        await whole(request(stream, content_encoding=coding))
    assert (caught.value.details.status, caught.value.details.type) == (400, "urn:piepowder:problem:malformed-coding")


@pytest.mark.parametrize("coding", sorted(CODINGS))
async def test_a_damaged_stream_is_rejected(coding: str) -> None:
    damaged = bytearray(gzip.compress(random.Random(1).randbytes(5_000)) if coding == "gzip" else zstd.compress(b"x"))
    damaged[-6] ^= 255
    for stream in (bytes(damaged) if coding == "gzip" else b"\x28\xb5\x2f\xfd" + b"\xff" * 50, b"plain text", b"{}"):
        with pytest.raises(Problem, match=f"is not {coding}, or is damaged") as caught:
            await whole(request(stream, content_encoding=coding))
        assert caught.value.details.status == 400


async def test_a_truncated_batch_keeps_the_verdicts_of_complete_lines() -> None:
    stream = gzip.compress(b"\n".join(line(n, text=str(random.Random(n).random())) for n in range(3_000)))
    cluster = Cluster()
    *verdicts, last = await post_batch(
        cluster, opened(request(stream[: len(stream) * 2 // 3], content_encoding="gzip"))
    )
    assert len(verdicts) >= 1_000
    assert {verdict["status"] for verdict in verdicts} == {202}
    assert (last["status"], last["type"], "line" in last) == (400, "urn:piepowder:problem:malformed-coding", False)
    assert f"{len(verdicts)} were accepted" in last["detail"]
    assert len(cluster.keys) == len(verdicts)


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, zstd", "gzip, gzip", "gzip;q=1"])
def test_an_unknown_coding_is_rejected_with_the_known_ones(coding: str) -> None:
    with pytest.raises(Problem, match="gzip or zstd") as caught:
        encoded_bodies.require(
            encoded_bodies.head(request(b"", content_type="application/json", content_encoding=coding)),
            "application/json",
        )
    assert caught.value.details.status == 415
    assert caught.value.headers == {"Accept-Encoding": "gzip, zstd"}


@pytest.mark.parametrize(
    ("call", "message"),
    [(request(b""), "is missing; expected"), (request(b"", content_type="a/b"), "is 'a/b'; expected application/json")],
)
def test_an_unknown_content_type_is_rejected_with_the_expected_one(call: Request, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        encoded_bodies.require(encoded_bodies.head(call), "application/json")
    assert caught.value.details.status == 415


def test_a_repeated_coding_is_rejected() -> None:
    call = request(b"", content_type="application/json", content_encoding="gzip")
    call.scope["headers"].append((b"content-encoding", b"gzip"))
    with pytest.raises(Problem, match="'gzip,gzip'"):
        encoded_bodies.require(encoded_bodies.head(call), "application/json")


async def test_a_body_that_does_not_arrive_gets_408() -> None:
    with pytest.raises(Problem) as caught:
        await whole(request(b'{"id":', ends=False), idle_seconds=0.05)
    assert (caught.value.details.status, caught.value.headers["Connection"]) == (408, "close")


async def test_a_body_is_not_read_beyond_its_limit() -> None:
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 65_536, "more_body": True}

    with pytest.raises(InputRejected, match="256 KiB"):
        await whole(Request({"type": "http", "headers": []}, receive))
    assert read == MAX_BODY_BYTES // 65_536 + 1
    with pytest.raises(InputRejected, match="256 KiB"):
        await whole(request(b"{}", content_length=str(MAX_BODY_BYTES + 1)))
