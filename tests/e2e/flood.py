"""A client that posts at a fixed rate whatever the answers are (open loop): `python -m tests.e2e.flood`, its plan on
stdin as JSON, on stdout what was said to every call.

A call whose time has come while all connections wait for answers is sent by the next that is free: what is under way is
bounded, and the service meets as many calls as were planned, as soon as it answers.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import uvloop

from shared.runtime.clock import SystemClock
from tests.bench import calls

_PAUSE_SECONDS = 0.05
_clock = SystemClock()


class Plan(msgspec.Struct, frozen=True):
    """`count` calls, `rate` of them a second, over so many connections: of `lines` items each, or single posts with 0.

    `tag` names the items, `market` is where they are offered. After so many `seconds` no further call is begun; with 0
    it takes as long as it takes.
    """

    url: str
    key: str
    tag: str
    market: str
    count: int
    rate: float
    connections: int
    lines: int = 0
    seconds: float = 0.0


class Said(msgspec.Struct, frozen=True):
    """What was said to a call: its status (0: it was hung up on), after so many seconds, Retry-After or None.

    `accepted` are the items that were answered 202, `statuses` those of a batch's lines, `impatient` how many of the
    refused ones came without a time to wait.
    """

    status: int
    took: float
    retry_after: int | None = None
    accepted: list[str] = []
    statuses: list[int] = []
    impatient: int = 0


class Told(msgspec.Struct, frozen=True):
    """All that was said, in the order of the answers, and how many seconds it took from the first call's time on."""

    seconds: float
    said: list[Said]


class _Verdict(msgspec.Struct):
    item_id: str = ""
    status: int = 202
    retry_after: int | None = None


_read = msgspec.json.Decoder(_Verdict).decode


class _Connection(calls.Connection):
    """One that keeps the last answer's Retry-After, in seconds."""

    retry_after: int | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the service has hung up while nothing was asked of it."""
        return self._transport is None or self._transport.is_closing()

    def on_message_begin(self) -> None:
        self.retry_after = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = int(value)


def item(tag: str, number: int, market: str) -> bytes:
    """A post, of some 600 bytes, that the sample's policies approve."""
    post = {
        "platform": "web",
        "kind": "product",
        "id": f"{tag}-{number}",
        "version": 1,
        "markets": [market],
        "title": "Desk lamp, brass",
        "text": "A lamp for a desk, of brass, with a switch and a cable. " * 8,
        "price": {"amount_minor": 3900, "currency": "EUR"},
    }
    return msgspec.json.encode(post)


async def flood(plan: Plan) -> Told:
    """Carry a plan out."""
    requests = [_request(plan, number) for number in range(plan.count)]
    calling = iter(enumerate(requests))
    found: list[Said] = []
    begin = _clock.monotonic()

    async def work() -> None:
        connection = await _opened(plan.url)
        for number, request in calling:
            if (early := begin + number / plan.rate - _clock.monotonic()) > 0:
                await asyncio.sleep(early)
            if plan.seconds and _clock.monotonic() - begin > plan.seconds:
                break
            if connection.is_closed:
                connection = await _opened(plan.url)
            written = _clock.monotonic()
            try:
                answer = await connection.call(request)
            except ConnectionError:
                found.append(Said(0, _clock.monotonic() - written))
                connection = await _opened(plan.url)
            else:
                found.append(_said(answer, _clock.monotonic() - written, connection.retry_after))
        connection.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(plan.connections):
            tasks.create_task(work())
    return Told(_clock.monotonic() - begin, found)


async def _opened(url: str) -> _Connection:
    """A connection, as soon as there is somebody to connect to."""
    while True:
        try:
            return await _Connection.open(url)
        except ConnectionError:
            await asyncio.sleep(_PAUSE_SECONDS)


async def carried_out(plan: Plan, within: float = 90.0) -> Told:
    """Carry a plan out in a process of its own; `within` so many seconds more than it takes by itself."""
    client = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.e2e.flood"],
        cwd=Path(__file__).parents[2],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        check=True,
        timeout=within + plan.count / plan.rate,
    )
    return msgspec.json.decode(client.stdout, type=Told)


def _request(plan: Plan, number: int) -> bytes:
    if not plan.lines:
        return calls.post("/v1/items", plan.key, item(plan.tag, number, plan.market))
    lines = range(number * plan.lines, (number + 1) * plan.lines)
    body = b"\n".join(item(plan.tag, line, plan.market) for line in lines)
    return calls.post("/v1/items/batch", plan.key, body, "application/x-ndjson")


def _said(answer: calls.Answer, took: float, retry_after: int | None) -> Said:
    if answer.status == 202:
        return Said(202, took, retry_after, [_read(answer.body).item_id])
    if answer.status != 200:
        return Said(answer.status, took, retry_after)
    verdicts = [_read(line) for line in answer.body.splitlines()]
    return Said(
        200,
        took,
        retry_after,
        [verdict.item_id for verdict in verdicts if verdict.status == 202],
        [verdict.status for verdict in verdicts],
        sum(verdict.status != 202 and verdict.retry_after is None for verdict in verdicts),
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        told = runner.run(flood(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
    with os.fdopen(sys.stdout.fileno(), "wb", closefd=False) as out:  # PYTHONUNBUFFERED's stdout writes but a part
        out.write(msgspec.json.encode(told))
