"""Where a service's processor time goes: py-spy samples it under load, native frames too, from outside its process.

The flame graph that it writes is the picture for people and the source of the table: each sample is put down to the
innermost part of its stack that has a name here, so that what the interpreter or the C library does is its caller's.
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
_HERTZ: Final = 100  # with native frames, more would slow the service down to the sampler's pace
_START_SECONDS: Final = 30.0
_LARGEST: Final = 190_000  # bytes: a picture is committed

_FRAME: Final = re.compile(
    r'<g><title>(?P<what>[^<]*?) \([\d,]+ samples?, [\d.]+%\)</title><rect x="[\d.]+%" y="(?P<y>[\d.]+)"[^>]*?'
    r' fg:x="(?P<begin>\d+)" fg:w="(?P<samples>\d+)"/>.*?</g>',
    re.DOTALL,
)
_TITLE: Final = re.compile(r'(<text id="title"[^>]*>)[^<]*</text>')  # it names this machine's folders
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
    """A box of the graph: `begin` and `samples` are its place and width, `depth` counts from the root, 0."""

    what: str
    depth: int
    begin: int
    samples: int


@asynccontextmanager
async def sampling(pid: int, svg: Path) -> AsyncIterator[None]:
    """Sample a process until the block ends, and write its flame graph; raises AssertionError when that cannot be."""
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


def finished(picture: Path) -> list[Frame]:
    """The boxes of the graph in a file, which is made small enough to be committed."""
    svg = _TITLE.sub(
        rf"\g<1>{picture.stem}: processor time, by what was called from where</text>",
        picture.read_text(encoding="utf-8"),
    )
    picture.write_text(slimmed(svg), encoding="utf-8")
    return frames(svg)


def frames(svg: str) -> list[Frame]:
    """The boxes of a graph that py-spy has drawn."""
    found = [(one["what"], float(one["y"]), int(one["begin"]), int(one["samples"])) for one in _FRAME.finditer(svg)]
    depths = {y: depth for depth, y in enumerate(sorted({y for _, y, _, _ in found}))}
    return [Frame(html.unescape(what), depths[y], begin, samples) for what, y, begin, samples in found]


def shares(boxes: list[Frame]) -> dict[str, float]:
    """The share of each part in all samples, the largest first; together 1."""
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


def slimmed(svg: str, largest: int = _LARGEST) -> str:
    """The graph in at most so many bytes: without its narrowest boxes."""
    narrowest = 1
    while len(svg.encode()) > largest:
        svg = _FRAME.sub(lambda one: "" if int(one["samples"]) <= narrowest else one[0], svg)  # noqa: B023 - at once
        narrowest += 1
    return svg
