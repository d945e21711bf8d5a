"""Posts items in batches, in the file's order, until every one has its verdict: accepted or refused, with the reason.

One batch is under way at a time, so that two versions of a subject never overtake each other. What may pass is tried
again from the first line without a verdict; a line that was taken twice is the same item, because its id repeats. So a
submission that was interrupted may be made again whole. The journal holds what was answered 202.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Final

import msgspec

from deploy.local.errors import StackError
from piepowder.accounting import Pair
from piepowder.client import Api, delay, sentence
from piepowder.listings import Line, Refusal
from shared.runtime.clock import SystemClock

CHUNK_LINES: Final = 1000
CHUNK_BYTES: Final = 4 * 2**20
_PASSING: Final = (429, 503)
_clock = SystemClock()


class Verdict(msgspec.Struct, frozen=True):
    """One line of intake's answer to a batch; one without a number says why the rest was not read."""

    status: int
    line: int = 0
    item_id: str = ""
    subject: str = ""
    regions: Any = ()
    title: str = ""
    detail: str = ""
    errors: list[dict[str, Any]] = []


class Accepted(msgspec.Struct, frozen=True):
    """One line of the journal: what intake promised to keep."""

    line: int
    item_id: str
    subject: str
    regions: list[str]

    def pairs(self) -> Iterator[Pair]:
        return (Pair(self.item_id, region) for region in self.regions)


class Tally:
    """What became of the lines so far; the first refusals are kept, all of them are in the report."""

    def __init__(self, *, keep: int = 1000) -> None:
        self.accepted = 0
        self.refused = 0
        self.last_line = 0
        self.pairs: set[Pair] = set()
        self.regions: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        self._keep = keep

    def accept(self, entry: Accepted) -> None:
        self.accepted += 1
        for pair in entry.pairs():
            if pair not in self.pairs:
                self.pairs.add(pair)
                self.regions[pair.region] += 1

    def refuse(self, refusal: Refusal) -> None:
        self.refused += 1
        if len(self.refusals) < self._keep:
            self.refusals.append(refusal)


class Submitter:
    """Sends lines to intake. `journal` and `report` are open files; `progress` is called after each batch."""

    def __init__(
        self,
        api: Api,
        *,
        journal: IO[bytes],
        report: IO[bytes],
        progress: Callable[[Tally], None] = lambda _: None,
        patience: float = 120.0,
    ) -> None:
        self.tally = Tally()
        self._refused: list[Refusal] = []
        self._api = api
        self._journal = journal
        self._report = report
        self._progress = progress
        self._patience = patience

    async def submit(self, lines: Iterable[Line | Refusal]) -> Tally:
        """Send all; raises `StackError` when intake takes nothing for the whole of `patience` (seconds)."""
        for chunk in _chunks(lines):
            self._refused = [line for line in chunk if isinstance(line, Refusal)]
            try:
                await self._post([line for line in chunk if isinstance(line, Line)])
            finally:
                self._report_refused()
            self.tally.last_line = chunk[-1].number
            self._journal.flush()
            self._progress(self.tally)
        return self.tally

    async def _post(self, lines: list[Line]) -> None:
        since, attempt = _clock.monotonic(), 0
        while lines:
            attempt += 1
            body = b"\n".join(line.body for line in lines) + b"\n"
            answer, why = await self._api.attempt(
                "intake",
                "POST",
                "/v1/items/batch",
                content=body,
                headers={"Content-Type": "application/x-ndjson"},
            )
            if answer is not None and answer.status_code == 200:
                done, why = self._take(lines, answer.content)
                lines = lines[done:]
                if done:
                    since, attempt = _clock.monotonic(), 0
            elif answer is not None and answer.status_code == 413:
                await self._post_halves(lines, why)
                return
            elif answer is not None and answer.status_code not in (*_PASSING, 502, 504):
                raise StackError(f"intake refused the whole batch: {why}", "Nothing of it was taken.")
            if lines:
                pause = delay(answer, attempt)
                if _clock.monotonic() + pause - since > self._patience:
                    raise StackError(
                        f"intake took nothing for {self._patience:.0f} seconds: {why}.",
                        f"Lines up to {self.tally.last_line} were sent; submit the same file again when it is back.",
                    )
                await asyncio.sleep(pause)

    async def _post_halves(self, lines: list[Line], why: str) -> None:
        if len(lines) == 1:
            self._refused.append(Refusal(lines[0].number, 413, why))
            return
        half = len(lines) // 2
        await self._post(lines[:half])
        await self._post(lines[half:])

    def _take(self, lines: list[Line], answer: bytes) -> tuple[int, str]:
        """Take in the verdicts up to the first that may pass; how many, and what hindered the next."""
        done = 0
        for text, line in zip(answer.splitlines(), lines, strict=False):
            try:
                verdict = msgspec.json.decode(text, type=Verdict)
            except msgspec.DecodeError:
                return done, "its answer was cut off"
            if verdict.line == 0 or verdict.status in _PASSING:
                return done, verdict.detail
            if verdict.status == 202:
                entry = Accepted(line.number, verdict.item_id, verdict.subject, list(verdict.regions))
                self._journal.write(msgspec.json.encode(entry) + b"\n")
                self.tally.accept(entry)
            else:
                problem = {"detail": verdict.detail, "title": verdict.title, "errors": verdict.errors}
                self._refused.append(Refusal(line.number, verdict.status, sentence(problem)))
            done += 1
        return done, "its answer was cut off"

    def _report_refused(self) -> None:
        """Tell what the file and intake refused of a chunk, in the order of its lines."""
        for refusal in sorted(self._refused):
            self._report.write(msgspec.json.encode(refusal._asdict()) + b"\n")
            self.tally.refuse(refusal)
        self._report.flush()


def _chunks(lines: Iterable[Line | Refusal]) -> Iterator[list[Line | Refusal]]:
    chunk: list[Line | Refusal] = []
    size = 0
    for line in lines:
        length = len(line.body) if isinstance(line, Line) else 0
        if chunk and (len(chunk) >= CHUNK_LINES or size + length > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += length
    if chunk:
        yield chunk
