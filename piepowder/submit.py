"""Submission of items in batches, in the file's order, until each line has a verdict: accepted, or refused with the
reason.

Only one batch is sent at a time, so that two versions of a subject never overtake each other. After a temporary
failure, all lines from the first one without a verdict are sent again; a line that is accepted twice gives the same
item, because its id repeats. So an interrupted submission may be repeated from its start. The journal holds the lines
that were accepted (202).
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import IO, Any, Final

import msgspec

from piepowder.client import SILENT_ATTEMPTS, Api, delay, problem_text
from piepowder.console_output import warn
from piepowder.imports.rows import Listing, Refusal
from piepowder.lenience import without_faulty_fields
from piepowder.tally import JournalEntry, Tally
from shared.runtime.clock import SystemClock
from shared.runtime.user_errors import UserError, sentence

CHUNK_LINES: Final = 1000
CHUNK_BYTES: Final = 4 * 2**20
_RETRIED: Final = (429, 503)
_clock = SystemClock()


class LineVerdict(msgspec.Struct, frozen=True):
    """One line of intake's response to a batch; without a number, it is the reason why the rest was not read."""

    status: int
    line: int = 0
    item_id: str = ""
    subject: str = ""
    regions: Any = ()
    title: str = ""
    detail: str = ""
    errors: list[dict[str, Any]] = []


@dataclass
class ItemSubmitter:
    """Sends lines to intake. `journal` and `report` are open files; `progress` is called after each batch. With
    `lenient`, a line that intake refuses for optional fields is sent again without them."""

    api: Api
    _: KW_ONLY
    journal: IO[bytes]
    report: IO[bytes]
    progress: Callable[[Tally], None] = lambda _: None
    patience: float = 120.0
    lenient: bool = False
    tally: Tally = field(default_factory=Tally)
    _refused: list[Refusal] = field(default_factory=list, init=False)

    async def submit(self, lines: Iterable[Listing | Refusal]) -> Tally:
        """Send all lines; raises `UserError` when intake returns no verdict for `patience` seconds."""
        for chunk in _chunks(lines):
            self._refused = [line for line in chunk if isinstance(line, Refusal)]
            try:
                await self._post([line for line in chunk if isinstance(line, Listing)])
            finally:
                self._write_report()
            self.tally.last_line = chunk[-1].number
            self.journal.flush()
            self.progress(self.tally)
        return self.tally

    async def _post(self, lines: list[Listing]) -> None:
        since, attempt = _clock.monotonic(), 0
        while lines:
            attempt += 1
            body = b"\n".join(line.body for line in lines) + b"\n"
            headers = {"Content-Type": "application/x-ndjson"}
            response, why = await self.api.attempt("intake", "POST", "/v1/items/batch", content=body, headers=headers)
            if response is not None and response.status_code == 200:
                done, why = self._record(lines, response.content)
                repaired = lines[done:] and self._repair(lines[done:], response.content.splitlines()[done:])
                lines = repaired or lines[done:]
                if done or repaired:
                    since, attempt = _clock.monotonic(), 0
                if repaired:
                    continue
            elif response is not None and response.status_code == 413:
                await self._post_halves(lines, why)
                return
            elif response is not None and response.status_code not in (*_RETRIED, 502, 504):
                raise UserError(sentence(f"intake refused the whole batch: {why}"), "None of its lines was accepted.")
            if lines:
                pause = delay(response, attempt)
                if attempt == SILENT_ATTEMPTS:
                    warn(f"intake has returned no verdict yet: {why}. Trying for up to {self.patience:.0f} s.")
                if _clock.monotonic() + pause - since > self.patience:
                    raise UserError(
                        f"intake returned no verdict for {self.patience:.0f} seconds: {why}.",
                        f"{self.tally.sent_lines()}; submit the file again when intake responds.",
                    )
                await asyncio.sleep(pause)

    async def _post_halves(self, lines: list[Listing], why: str) -> None:
        if len(lines) == 1:
            self._refused.append(Refusal(lines[0].number, 413, why))
            return
        half = len(lines) // 2
        await self._post(lines[:half])
        await self._post(lines[half:])

    def _record(self, lines: list[Listing], response: bytes) -> tuple[int, str]:
        """Record the verdicts up to the first temporary failure; return their number and the failure."""
        done = 0
        for text, line in zip(response.splitlines(), lines, strict=False):
            try:
                verdict = msgspec.json.decode(text, type=LineVerdict)
            except msgspec.DecodeError:
                return done, "its response was cut off"
            if verdict.line == 0 or verdict.status in _RETRIED:
                return done, verdict.detail
            if verdict.status == 202:
                entry = JournalEntry(line.number, verdict.item_id, verdict.subject, list(verdict.regions))
                self.journal.write(msgspec.json.encode(entry) + b"\n")
                self.tally.accept(entry)
                self.tally.omit(line.number, line.omitted)
            elif self.lenient and without_faulty_fields(line, verdict.errors) is not None:
                return done, verdict.detail
            else:
                problem = {"detail": verdict.detail, "title": verdict.title, "errors": verdict.errors}
                self._refused.append(Refusal(line.number, verdict.status, problem_text(problem)))
            done += 1
        return done, "its response was cut off"

    def _repair(self, lines: list[Listing], response: list[bytes]) -> list[Listing]:
        """All lines without the faulty optional fields that the response names; none if the first one stays the same.

        The lines behind it are sent again too, as after a temporary failure: else an older version of a subject could
        overtake a newer one.
        """
        if not self.lenient:
            return []
        repaired = list(lines)
        for at, text in enumerate(response[: len(lines)]):
            try:
                verdict = msgspec.json.decode(text, type=LineVerdict)
            except msgspec.DecodeError:
                break
            if verdict.status == 422:
                repaired[at] = without_faulty_fields(lines[at], verdict.errors) or lines[at]
        return repaired if repaired[0] is not lines[0] else []

    def _write_report(self) -> None:
        """Report the refused lines of a chunk, in their order."""
        for refusal in sorted(self._refused):
            self.report.write(msgspec.json.encode(refusal._asdict()) + b"\n")
            self.tally.refuse(refusal)
        self.report.flush()


def _chunks(lines: Iterable[Listing | Refusal]) -> Iterator[list[Listing | Refusal]]:
    chunk: list[Listing | Refusal] = []
    size = 0
    for line in lines:
        length = len(line.body) if isinstance(line, Listing) else 0
        if chunk and (len(chunk) >= CHUNK_LINES or size + length > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += length
    if chunk:
        yield chunk
