"""The processor time of a service: py-spy samples it under load, with native frames, from outside its process.

Its flame graph is the source of the table. Each sample counts for the innermost named part
of its stack, so that the work of the interpreter or the C library counts for its caller.
"""

import asyncio
import html
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

_PROGRAM: Final = Path(sys.executable).with_name("py-spy")
_HERTZ: Final = 100  # with native frames, a higher rate would slow down the service
_START_SECONDS: Final = 30.0

_FRAME: Final = re.compile(
    r'<g><title>(?P<what>[^<]*?) \([\d,]+ samples?, [\d.]+%\)</title><rect x="[\d.]+%" y="(?P<y>[\d.]+)"[^>]*?'
    r' fg:x="(?P<begin>\d+)" fg:w="(?P<samples>\d+)"/>.*?</g>',
    re.DOTALL,
)
_PARTS: Final = (
    ("garbage collection", re.compile(r"^gc_|^deduce_unreachable")),
    ("compression", re.compile(r"\((cramjam|zstd|lz4)")),
    ("CEL", re.compile(r"\(cel[./]|cel_expr")),
    ("word lists (RE2)", re.compile(r"\(_?re2|\(re2/")),
    ("JSON (msgspec)", re.compile(r"msgspec")),
    ("Kafka client (aiokafka)", re.compile(r"aiokafka|default_records|_crecords")),
    ("PostgreSQL client (asyncpg)", re.compile(r"asyncpg")),
    ("SQLAlchemy", re.compile(r"sqlalchemy")),
    ("web server (uvicorn, httptools)", re.compile(r"uvicorn|httptools|llhttp")),
    ("web framework (starlette, fastapi)", re.compile(r"starlette|fastapi")),
    ("metrics", re.compile(r"prometheus_client")),
    ("own", re.compile(r"\(((?:services|shared)/[\w/]+\.py)")),
    ("event loop (uvloop, asyncio)", re.compile(r"uvloop|asyncio|\(libuv")),
)
_REST: Final = "the interpreter, unattributed"


class Frame(NamedTuple):
    """A box of the graph: `begin` and `samples` are its position and width, `depth` counts from the root, 0."""

    what: str
    depth: int
    begin: int
    samples: int


@asynccontextmanager
async def sampling(pid: int, svg: Path) -> AsyncIterator[None]:
    """Sample a process until the block ends, and write its flame graph; raises AssertionError if that fails."""
    options = ["--pid", str(pid), "--rate", str(_HERTZ), "--native", "--function", "--output", str(svg)]
    try:
        spy = await asyncio.create_subprocess_exec(
            _PROGRAM, "record", *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise AssertionError(f"py-spy does not start: {error}; `make bench` installs it") from error
    assert spy.stdout is not None
    try:
        async with asyncio.timeout(_START_SECONDS):
            said = await spy.stdout.readline()
        if b"Sampling" not in said:
            said += await spy.stdout.read()
            raise AssertionError(f"py-spy cannot sample, may it trace processes here? {said.decode().strip()}")
        yield
    finally:
        if spy.returncode is None:
            spy.send_signal(signal.SIGINT)
        said, _ = await spy.communicate()
    if spy.returncode:
        raise AssertionError(f"py-spy wrote no graph: {said.decode().strip()}")


def frames(svg: str) -> list[Frame]:
    """The boxes of a graph by py-spy."""
    found = [(one["what"], float(one["y"]), int(one["begin"]), int(one["samples"])) for one in _FRAME.finditer(svg)]
    depths = {y: depth for depth, y in enumerate(sorted({y for _, y, _, _ in found}))}
    return [Frame(html.unescape(what), depths[y], begin, samples) for what, y, begin, samples in found]


def shares(boxes: list[Frame]) -> dict[str, float]:
    """The share of each part in all samples, the largest first; the sum is 1."""
    children: dict[int, list[Frame]] = {}
    for box in boxes:
        children.setdefault(box.depth, []).append(box)
    counted: Counter[str] = Counter()

    def walk(box: Frame, part: str) -> None:
        part = part_of(box.what) or part
        inside = [
            child
            for child in children.get(box.depth + 1, [])
            if box.begin <= child.begin and child.begin + child.samples <= box.begin + box.samples
        ]
        counted[part] += box.samples - sum(child.samples for child in inside)
        for child in inside:
            walk(child, part)

    for root in children.get(0, []):
        walk(root, _REST)
    total = counted.total()
    return {part: samples / total for part, samples in counted.most_common() if samples}


def part_of(what: str) -> str | None:
    """The part of a function, by its name and place (`route (services/router/handlers/routing.py:44)`)."""
    for part, known in _PARTS:
        if (match := known.search(what)) is not None:
            return f"`{match[1]}`" if part == "own" else part
    return None
