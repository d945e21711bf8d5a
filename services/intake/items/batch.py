"""A batch call: reads NDJSON lines and returns one verdict per line while the body still arrives, in limited memory.

Three parts run at the same time. The reader validates lines and collects them in a chunk. The submitter sends the chunk
to Kafka, when the chunk is full or shortly after its first line, and writes the verdicts. The sender returns the
verdicts to the client. Only one chunk is submitted at a time, so that the versions of a subject keep their order. Each
part waits when the next part is full: if a client does not read its verdicts, its body is not read any further. The
buffer of verdicts is large enough for an ordinary call, so that a client can send its whole body before it reads.

Submitted lines stay accepted, even if the rest of the call fails. The ids repeat, so the client can always send the
whole batch again. A fault rejects the whole call only while no chunk was submitted. Later, the fault is the last line
of the response, after the verdicts of the lines before it. A last line that the connection cut off is ignored.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec
from starlette.requests import ClientDisconnect

from services.intake import metrics
from services.intake.items.domain import posts
from services.intake.items.handlers import ItemIntake, PreparedItem
from services.intake.items.ndjson import LineSplitter, NumberedLine
from services.intake.problems import submission_problem
from services.intake.publishing.regions import NotAcknowledged, Overloaded
from shared.auth.principal import Principal
from shared.http.encoded_bodies import too_slow
from shared.http.problems import BODY_TOO_LARGE, InputError, Problem, ProblemDetails, ProblemType
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import PiepowderError, Poison, Transient
from shared.validation.faults import InputRejected

MAX_LINES: Final = 10_000
MAX_BYTES: Final = 64 * 2**20
EMPTY: Final = ProblemType("empty", 400, "The body is empty", "No line contains an item.")
_MAX_WITH_BLANK: Final = 10 * MAX_LINES
_CHUNK_LINES: Final = 1_000
_CHUNK_BYTES: Final = 2**20
_LINGER_SECONDS: Final = 0.02
_FORBIDDEN: Final = 403
_VERDICT_BYTES: Final = 2 * 2**20  # limit of the buffered verdicts

_encode = msgspec.json.Encoder().encode


class AcceptedLineView(msgspec.Struct, frozen=True):
    """The verdict of a line whose item is in Kafka in each of `regions`."""

    line: int
    status: int
    item_id: str
    subject: str
    regions: tuple[str, ...]


class RejectedLineView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict of a rejected line: a problem (RFC 9457) with the line's number."""

    line: int
    status: int
    type: str
    title: str
    detail: str
    errors: list[InputError] = []
    retry_after: int | None = None


_CheckedLine: TypeAlias = tuple[int, PreparedItem | bytes]
"""A line's number with its prepared item or, for a rejected line, its verdict."""


class Batch:
    """One batch call. `idle_seconds` is the time limit for each line to arrive completely."""

    def __init__(self, intake: ItemIntake, client: Principal, clock: Clock, *, idle_seconds: float) -> None:
        self._intake = intake
        self._client = client
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._changed = asyncio.Event()
        self._chunk: list[_CheckedLine] = []
        self._chunk_bytes = 0
        self._count = 0
        self._fault: Problem | None = None
        self._read_all = False
        self._failed_regions: dict[str, ProblemDetails] = {}
        self.outcomes: Counter[int] = Counter()
        self.forbidden: Counter[str] = Counter()
        self._verdicts: deque[bytes] = deque()
        self._verdict_bytes = 0
        self._submitting = False
        self._submitted_all = False
        self._disconnected = False

    async def verdicts(self, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The verdicts of all lines that are not blank, in order; each piece consists of complete lines.

        Before the first verdict, raises a Problem: 400 for a body without items, 503 or 429 when Kafka accepted no
        item, 408 and 413 beyond the limits, and any Problem or ClientDisconnect of `body`. After the first verdict,
        such a problem is the last line.
        """
        tasks = [asyncio.create_task(self._read(body)), asyncio.create_task(self._submit_all())]
        try:
            while True:
                await self._until(lambda: bool(self._verdicts) or self._submitted_all)
                if not self._verdicts:
                    break
                piece = self._verdicts.popleft()
                self._verdict_bytes -= len(piece)
                self._notify()
                yield piece
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            tasks[1].cancel()  # the service stops: do not wait for Kafka
            raise
        finally:
            self._disconnected = True
            self._notify()
            tasks[0].cancel()
            await asyncio.wait(tasks)
            for status, n in self.outcomes.items():
                metrics.ITEMS.labels(str(status)).inc(n)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _notify(self) -> None:
        """Wake all waiting tasks, so that they check their conditions again."""
        self._changed.set()
        self._changed = asyncio.Event()

    # reading

    async def _read(self, body: AsyncIterator[bytes]) -> None:
        lines = LineSplitter(posts.MAX_BODY_BYTES)
        size = 0
        try:
            until = self._deadline()
            while (data := await _next(body, until)) is not None:
                size += len(data)
                if size > MAX_BYTES:
                    raise _too_large(f"more than {MAX_BYTES >> 20} MiB")
                if whole := lines.feed(data):
                    await self._check_lines(whole)
                    until = self._deadline()
                if lines.number > _MAX_WITH_BLANK:
                    raise _too_large(f"more than {_MAX_WITH_BLANK} lines, most of them blank")
            await self._check_lines(lines.end())
        except TimeoutError:
            self._fault = too_slow(f"No line was completed within {self._idle_seconds:g} seconds.")
        except Problem as problem:
            self._fault = problem
        except ClientDisconnect:
            self._disconnected = True
            if not self._submitting:
                raise
        finally:
            self._read_all = True
            self._notify()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._idle_seconds

    async def _check_lines(self, lines: Sequence[NumberedLine]) -> None:
        received_at = to_text(self._clock.now())
        for line in lines:
            self._count += 1
            if self._count > MAX_LINES:
                raise _too_large(f"more than {MAX_LINES} lines")
            self._check_line(line, received_at)
            if self._is_full():
                self._notify()
                await self._until(lambda: not self._is_full())
                received_at = to_text(self._clock.now())
        if self._chunk:
            self._notify()

    def _check_line(self, line: NumberedLine, received_at: str) -> None:
        number, text = line
        try:
            if text is None:
                raise posts.too_large("the line")
            self._chunk.append((number, self._intake.prepare(text, self._client, received_at)))
            self._chunk_bytes += len(text)
        except InputRejected as rejected:
            verdict = self._reject(number, submission_problem(rejected).details)
            self._chunk.append((number, verdict))
            self._chunk_bytes += len(verdict)

    def _is_full(self) -> bool:
        return len(self._chunk) >= _CHUNK_LINES or self._chunk_bytes >= _CHUNK_BYTES

    # submitting

    async def _submit_all(self) -> None:
        try:
            while chunk := await self._next_chunk():
                first, self._submitting = not self._submitting, True
                self._put(await self._submit_chunk(chunk, first=first))
                await self._until(lambda: self._disconnected or self._verdict_bytes < _VERDICT_BYTES)
            if self._disconnected:
                return
            if self._fault is not None:
                self._report_fault(self._fault)
            elif not self._submitting:
                raise EMPTY("No line contains an item; expected a JSON object on each line.")
        finally:
            self._submitted_all = True
            self._notify()

    async def _next_chunk(self) -> list[_CheckedLine]:
        """The next chunk; empty at the end, and when the whole call is rejected."""
        await self._until(lambda: bool(self._chunk) or self._read_all or self._disconnected)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._until(lambda: self._is_full() or self._read_all or self._disconnected)
        if self._disconnected or (self._fault is not None and not self._submitting):
            return []
        chunk, self._chunk, self._chunk_bytes = self._chunk, [], 0
        self._notify()
        return chunk

    async def _submit_chunk(self, chunk: list[_CheckedLine], *, first: bool) -> bytes:
        """Submit a chunk; returns its verdicts. Raises Problem when Kafka accepts nothing of the first chunk."""
        rejected = await self._publish(chunk)
        any_failed = bool(rejected or self._failed_regions)
        verdicts, accepted, retry_later = [], 0, None
        for number, one in chunk:
            if isinstance(one, bytes):
                verdicts.append(one)
            elif any_failed and (details := rejected.get(number) or self._region_error(one)):
                verdicts.append(self._reject(number, details))
                retry_later = details if details.retry_after is not None else retry_later
            else:
                accepted += 1
                verdicts.append(_encode(AcceptedLineView(number, 202, one.item_id, one.subject, one.regions)))
        if first and retry_later is not None and not accepted:
            slug, detail = retry_later.type.rpartition(":")[2], f"No line was accepted. {retry_later.detail}"
            raise Problem(retry_later.status, slug, retry_later.title, detail, retry_after=retry_later.retry_after)
        self.outcomes[202] += accepted
        return b"\n".join(verdicts) + b"\n"

    async def _publish(self, chunk: list[_CheckedLine]) -> dict[int, ProblemDetails]:
        """Publish the items whose regions have not failed. Returns the errors of lines; stores those of regions."""
        valid = [(number, one) for number, one in chunk if not isinstance(one, bytes)]
        sent = (
            [(number, one) for number, one in valid if self._region_error(one) is None]
            if self._failed_regions
            else valid
        )
        rejected: dict[int, ProblemDetails] = {}
        try:
            await self._intake.submit([one for _, one in sent], patient=True)
        except NotAcknowledged as error:
            self._failed_regions.update({region: _region_problem(error.of(region)) for region in error.by_region})
        except Poison:  # Kafka rejects one of the records: submit each alone
            for number, one in sent:
                try:
                    await self._intake.submit([one], patient=True)
                except Poison as poison:
                    rejected[number] = submission_problem(poison).details
                except NotAcknowledged as error:
                    rejected[number] = _region_problem(error)
        return rejected

    def _region_error(self, one: PreparedItem) -> ProblemDetails | None:
        """The error of a region of the item that failed before in this call."""
        return next((self._failed_regions[region] for region in one.regions if region in self._failed_regions), None)

    def _reject(self, line: int, details: ProblemDetails) -> bytes:
        self.outcomes[details.status] += 1
        if details.status == _FORBIDDEN:
            self.forbidden[details.type.rpartition(":")[2]] += 1
        return _encode(
            RejectedLineView(
                line, details.status, details.type, details.title, details.detail, details.errors, details.retry_after
            )
        )

    def _put(self, verdicts: bytes) -> None:
        self._verdicts.append(verdicts)
        self._verdict_bytes += len(verdicts)
        self._notify()

    def _report_fault(self, fault: Problem) -> None:
        """Append the fault as the last line; raises it as a Problem when no chunk was submitted."""
        details = fault.details
        if not self._submitting:
            slug, detail = details.type.rpartition(":")[2], f"{details.detail} No item was accepted."
            raise Problem(details.status, slug, details.title, detail, headers=fault.headers)
        accepted, rejected = self.outcomes[202], self.outcomes.total() - self.outcomes[202]
        state = (
            f"Of the lines before, {accepted} were accepted and {rejected} rejected; the rest was not read. Sending the"
            " whole batch again accepts no item twice."
        )
        self._put(_encode(msgspec.structs.replace(details, detail=f"{details.detail} {state}")) + b"\n")


async def _next(body: AsyncIterator[bytes], until: float) -> bytes | None:
    async with asyncio.timeout_at(until):
        return await anext(body, None)


def _too_large(excess: str) -> Problem:
    return BODY_TOO_LARGE(
        f"The body has {excess}. Split it into calls of at most {MAX_LINES} lines and {MAX_BYTES >> 20} MiB."
    )


def _region_problem(error: PiepowderError) -> ProblemDetails:
    return submission_problem(error if isinstance(error, Transient) else Overloaded()).details
