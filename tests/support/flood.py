"""Open-loop HTTP client in its own process: starts calls at a fixed rate, independent of the responses.

`python -m tests.support.flood` reads its plan from stdin as JSON and writes the result of each call to stdout. A call
that is due while all connections are busy is sent on the next free connection: the number of calls in flight is
bounded, and late calls are still sent, up to `FloodPlan.seconds`. No call starts after SIGTERM.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from shared.runtime.clock import SystemClock
from tests.bench import calls
from tests.support.processes import start_process

_PAUSE_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 1.0
_COMMAND: Final = (sys.executable, "-m", "tests.support.flood")
_ROOT: Final = Path(__file__).parents[2]
_clock = SystemClock()


class FloodPlan(msgspec.Struct, frozen=True):
    """`count` calls at `rate` calls per second over `connections`: batches of `lines` items, or single posts if 0.

    The items' ids start with `tag`; the items are for sale in `market`. No call starts later than `seconds` after the
    first; 0 means no limit.
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


class CallResult(msgspec.Struct, frozen=True):
    """The response to a call: its status (0: disconnected), its duration in seconds, its Retry-After header.

    `accepted` has the ids of the items with status 202, `statuses` the status of each line of a batch.
    `without_retry_after` counts the rejected lines without `retry_after`.
    """

    status: int
    seconds: float
    retry_after: int | None = None
    accepted: list[str] = []
    statuses: list[int] = []
    without_retry_after: int = 0


class FloodResult(msgspec.Struct, frozen=True):
    """All results, in the order of the responses, and the seconds from the first call to the last response."""

    seconds: float
    calls: list[CallResult]


class _LineResult(msgspec.Struct):
    item_id: str = ""
    status: int = 202
    retry_after: int | None = None


_read = msgspec.json.Decoder(_LineResult).decode


class _Connection(calls.Connection):
    """A connection that stores the last response's Retry-After header, in seconds."""

    retry_after: int | None = None

    @property
    def is_closed(self) -> bool:
        """True if the service closed the idle connection."""
        return self._transport is None or self._transport.is_closing()

    def on_message_begin(self) -> None:
        self.retry_after = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = int(value)


def item(tag: str, number: int, market: str) -> bytes:
    """A post of about 600 bytes that the sample policies approve."""
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


async def flood(plan: FloodPlan, stop: asyncio.Event) -> FloodResult:
    """Carry out a plan; no call starts after `stop`."""
    requests = [_request(plan, number) for number in range(plan.count)]
    calling = iter(enumerate(requests))
    results: list[CallResult] = []
    begin = _clock.monotonic()

    async def work() -> None:
        connection = await _connect(plan.url)
        for number, request in calling:
            while not stop.is_set() and (early := begin + number / plan.rate - _clock.monotonic()) > 0:  # noqa: ASYNC110 - it waits for a time
                await asyncio.sleep(min(early, _STOP_SECONDS))
            if stop.is_set() or (plan.seconds and _clock.monotonic() - begin > plan.seconds):
                break
            if connection.is_closed:
                connection = await _connect(plan.url)
            written = _clock.monotonic()
            try:
                response = await connection.call(request)
            except ConnectionError:
                results.append(CallResult(0, _clock.monotonic() - written))
                connection = await _connect(plan.url)
            else:
                results.append(_result(response, _clock.monotonic() - written, connection.retry_after))
        connection.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(plan.connections):
            tasks.create_task(work())
    return FloodResult(_clock.monotonic() - begin, results)


async def _connect(url: str) -> _Connection:
    """Open a connection; wait until the service listens."""
    while True:
        try:
            return await _Connection.open(url)
        except ConnectionError:
            await asyncio.sleep(_PAUSE_SECONDS)


async def flood_in_process(plan: FloodPlan, within: float = 90.0) -> FloodResult:
    """Carry out a plan in its own process; raises TimeoutExpired `within` seconds after its planned end."""
    client = await asyncio.to_thread(
        subprocess.run,
        _COMMAND,
        cwd=_ROOT,
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        check=True,
        timeout=within + plan.count / plan.rate,
    )
    return msgspec.json.decode(client.stdout, type=FloodResult)


class RunningFlood:
    """A flood in its own process; `stop` ends it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def stop(self, within: float = 60.0) -> FloodResult:
        """Start no further calls and return all results; raises TimeoutError after `within` seconds."""
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within):
            output, _ = await self._process.communicate()
        return msgspec.json.decode(output, type=FloodResult)


@asynccontextmanager
async def running_flood(plan: FloodPlan) -> AsyncIterator[RunningFlood]:
    """Run a plan until the flood is stopped, or at most until the end of the block."""
    pipe = asyncio.subprocess.PIPE
    process = await start_process(*_COMMAND, cwd=_ROOT, stdin=pipe, stdout=pipe)
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(plan))
        process.stdin.close()
        yield RunningFlood(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _request(plan: FloodPlan, number: int) -> bytes:
    if not plan.lines:
        return calls.post("/v1/items", plan.key, item(plan.tag, number, plan.market))
    lines = range(number * plan.lines, (number + 1) * plan.lines)
    body = b"\n".join(item(plan.tag, line, plan.market) for line in lines)
    return calls.post("/v1/items/batch", plan.key, body, "application/x-ndjson")


def _result(response: calls.Answer, seconds: float, retry_after: int | None) -> CallResult:
    if response.status == 202:
        return CallResult(202, seconds, retry_after, [_read(response.body).item_id])
    if response.status != 200:
        return CallResult(response.status, seconds, retry_after)
    lines = [_read(line) for line in response.body.splitlines()]
    return CallResult(
        200,
        seconds,
        retry_after,
        [line.item_id for line in lines if line.status == 202],
        [line.status for line in lines],
        sum(line.status != 202 and line.retry_after is None for line in lines),
    )


async def _main() -> FloodResult:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return await flood(msgspec.json.decode(sys.stdin.buffer.read(), type=FloodPlan), stop)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(_main())
    with os.fdopen(sys.stdout.fileno(), "wb", closefd=False) as out:  # an unbuffered stdout may write partially
        out.write(msgspec.json.encode(result))
