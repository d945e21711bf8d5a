"""A batch call: lines in, a verdict a line out while the body is still coming, in bounded memory.

Three hands work side by side. One reads and judges lines until a chunk of them is full; one hands the chunk over to
Kafka, when it is full or a moment after its first line, and writes its verdicts; one sends these. One chunk is under
way at a time and never two, so that a subject's versions stay in order. Each waits when the next has enough, so that a
client which does not take its verdicts is not read from any more; but there is room for the verdicts of a whole
ordinary call, so that one which sends everything before it reads anything does not block itself.

What was handed over stays accepted whatever happens to the rest of the call: ids repeat, so sending the whole again is
always right. A whole call is refused only while nothing of it was handed over; after that its fault is the last line,
and the lines before have their verdicts. A last line that the connection cut off is not taken.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec
from starlette.requests import ClientDisconnect

from services.intake import metrics
from services.intake.bodies import too_slow
from services.intake.domain import posts
from services.intake.domain.posts import Refused
from services.intake.handlers import Accepted, Front, NotAcknowledged, Overloaded
from services.intake.ndjson import Line, Splitter
from shared.auth.principal import Principal
from shared.http.http import InputError, Problem, ProblemDetails, unavailable
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import PiepowderError, Poison, Transient

MAX_LINES: Final = 10_000
MAX_BYTES: Final = 64 * 2**20
_MAX_WITH_BLANK: Final = 10 * MAX_LINES
_CHUNK_LINES: Final = 1_000
_CHUNK_BYTES: Final = 2**20
_LINGER_SECONDS: Final = 0.02
_FORBIDDEN: Final = 403
_VERDICT_BYTES: Final = 2 * 2**20  # verdicts that may wait for their client

_encode = msgspec.json.Encoder().encode


class AcceptedLine(msgspec.Struct, frozen=True):
    """A line whose item is in Kafka, in each of `regions`."""

    line: int
    status: int
    item_id: str
    subject: str
    regions: tuple[str, ...]


class RefusedLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that was not accepted: a problem (RFC 9457) with the line's number."""

    line: int
    status: int
    type: str
    title: str
    detail: str
    errors: list[InputError] = []
    retry_after: int | None = None


_Judged: TypeAlias = tuple[int, Accepted | bytes]
"""A line's number, and either what is to be sent or the verdict that it is refused."""


class Batch:
    """One call. `idle_seconds`: how long its sender may take to complete a line."""

    def __init__(self, front: Front, client: Principal, clock: Clock, *, idle_seconds: float) -> None:
        self._front = front
        self._client = client
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._changed = asyncio.Event()
        self._chunk: list[_Judged] = []
        self._chunk_bytes = 0
        self._count = 0
        self._fault: Problem | None = None
        self._read_all = False
        self._broken: dict[str, ProblemDetails] = {}
        self.outcomes: Counter[int] = Counter()
        self.forbidden: Counter[str] = Counter()
        self._verdicts: deque[bytes] = deque()
        self._verdict_bytes = 0
        self._begun = False
        self._settled_all = False
        self._gone = False

    async def take(self, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The verdicts, whole lines, some at a time: one for each line that is not blank, in their order.

        Before the first raises Problem: 400 for a body without lines, 503 or 429 when Kafka took none, 408 and 413 past
        the limits, and what `body` raises; ClientDisconnect too. After the first such a problem is the last line.
        """
        hands = [asyncio.create_task(self._read(body)), asyncio.create_task(self._hand_over())]
        try:
            while True:
                await self._until(lambda: bool(self._verdicts) or self._settled_all)
                if not self._verdicts:
                    break
                piece = self._verdicts.popleft()
                self._verdict_bytes -= len(piece)
                self._tell()
                yield piece
            await asyncio.gather(*hands)
        finally:
            self._gone = True
            self._tell()
            hands[0].cancel()
            await asyncio.wait(hands)
            for status, n in self.outcomes.items():
                metrics.ITEMS.labels(str(status)).inc(n)

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            await self._changed.wait()

    def _tell(self) -> None:
        """Wake whoever waits, to look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    # reading

    async def _read(self, body: AsyncIterator[bytes]) -> None:
        lines = Splitter(posts.MAX_BODY_BYTES)
        size = 0
        try:
            until = self._deadline()
            while (data := await _next(body, until)) is not None:
                size += len(data)
                if size > MAX_BYTES:
                    raise _too_large(f"more than {MAX_BYTES >> 20} MiB")
                if whole := lines.feed(data):
                    await self._judge_all(whole)
                    until = self._deadline()
                if lines.number > _MAX_WITH_BLANK:
                    raise _too_large(f"more than {_MAX_WITH_BLANK} lines, most of them blank")
            await self._judge_all(lines.end())
        except TimeoutError:
            self._fault = too_slow(f"No line was completed within {self._idle_seconds:g} seconds.")
        except Problem as problem:
            self._fault = problem
        except ClientDisconnect:
            self._gone = True
            if not self._begun:
                raise
        finally:
            self._read_all = True
            self._tell()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._idle_seconds

    async def _judge_all(self, lines: Sequence[Line]) -> None:
        received_at = to_text(self._clock.now())
        for line in lines:
            self._count += 1
            if self._count > MAX_LINES:
                raise _too_large(f"more than {MAX_LINES} lines")
            self._judge(line, received_at)
            if self._is_full():
                self._tell()
                await self._until(lambda: not self._is_full())
                received_at = to_text(self._clock.now())
        if self._chunk:
            self._tell()

    def _judge(self, line: Line, received_at: str) -> None:
        number, text = line
        try:
            if text is None:
                raise posts.too_large("the line")
            self._chunk.append((number, self._front.prepare(text, self._client, received_at)))
            self._chunk_bytes += len(text)
        except Refused as refused:
            verdict = self._refuse(number, problem(refused).details)
            self._chunk.append((number, verdict))
            self._chunk_bytes += len(verdict)

    def _is_full(self) -> bool:
        return len(self._chunk) >= _CHUNK_LINES or self._chunk_bytes >= _CHUNK_BYTES

    # handing over

    async def _hand_over(self) -> None:
        try:
            while chunk := await self._next_chunk():
                first, self._begun = not self._begun, True
                self._put(await self._settle(chunk, first=first))
                await self._until(lambda: self._gone or self._verdict_bytes < _VERDICT_BYTES)
            if self._gone:
                return
            if self._fault is not None:
                self._end(self._fault)
            elif not self._begun:
                detail = "No line has an item; expected a JSON object on each line."
                raise Problem(400, "empty", "The body is empty", detail)
        finally:
            self._settled_all = True
            self._tell()

    async def _next_chunk(self) -> list[_Judged]:
        """What is to be handed over next; nothing when that was all, or the whole call is to be refused."""
        await self._until(lambda: bool(self._chunk) or self._read_all or self._gone)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._until(lambda: self._is_full() or self._read_all or self._gone)
        if self._gone or (self._fault is not None and not self._begun):
            return []
        chunk, self._chunk, self._chunk_bytes = self._chunk, [], 0
        self._tell()
        return chunk

    async def _settle(self, chunk: list[_Judged], *, first: bool) -> bytes:
        """Have a chunk acknowledged; its verdicts. Raises Problem when Kafka took nothing of the first."""
        refused = await self._submit(chunk)
        doubtful = bool(refused or self._broken)
        verdicts, accepted, hindered = [], 0, None
        for number, one in chunk:
            if isinstance(one, bytes):
                verdicts.append(one)
            elif doubtful and (why := refused.get(number) or self._hindrance(one)):
                verdicts.append(self._refuse(number, why))
                hindered = why if why.retry_after is not None else hindered
            else:
                accepted += 1
                verdicts.append(_encode(AcceptedLine(number, 202, one.item_id, one.subject, one.regions)))
        if first and hindered is not None and not accepted:
            slug, detail = hindered.type.rpartition(":")[2], f"No line was accepted. {hindered.detail}"
            raise Problem(hindered.status, slug, hindered.title, detail, retry_after=hindered.retry_after)
        self.outcomes[202] += accepted
        return b"\n".join(verdicts) + b"\n"

    async def _submit(self, chunk: list[_Judged]) -> dict[int, ProblemDetails]:
        """Put to Kafka what nothing hinders; why by line for what was refused alone, the rest is in `_broken`."""
        judged = [(number, one) for number, one in chunk if not isinstance(one, bytes)]
        sent = [(number, one) for number, one in judged if self._hindrance(one) is None] if self._broken else judged
        refused: dict[int, ProblemDetails] = {}
        try:
            await self._front.submit([one for _, one in sent], patient=True)
        except NotAcknowledged as error:
            self._broken.update({region: _passing(error.of(region)) for region in error.by_region})
        except Poison:  # Kafka does not take one of them: find which
            for number, one in sent:
                try:
                    await self._front.submit([one], patient=True)
                except Poison as poison:
                    refused[number] = not_taken(poison).details
                except NotAcknowledged as error:
                    refused[number] = _passing(error)
        return refused

    def _hindrance(self, one: Accepted) -> ProblemDetails | None:
        """Why nothing more is sent for a region of the item's."""
        return next((self._broken[region] for region in one.regions if region in self._broken), None)

    def _refuse(self, line: int, why: ProblemDetails) -> bytes:
        self.outcomes[why.status] += 1
        if why.status == _FORBIDDEN:
            self.forbidden[why.type.rpartition(":")[2]] += 1
        return _encode(RefusedLine(line, why.status, why.type, why.title, why.detail, why.errors, why.retry_after))

    def _put(self, verdicts: bytes) -> None:
        self._verdicts.append(verdicts)
        self._verdict_bytes += len(verdicts)
        self._tell()

    def _end(self, fault: Problem) -> None:
        """Tell why the rest was not read: as the last line, or instead of all when nothing was handed over."""
        told = fault.details
        if not self._begun:
            slug, detail = told.type.rpartition(":")[2], f"{told.detail} Nothing was taken."
            raise Problem(told.status, slug, told.title, detail, headers=fault.headers)
        taken, refused = self.outcomes[202], self.outcomes.total() - self.outcomes[202]
        state = (
            f"Of the lines before, {taken} were accepted and {refused} refused; the rest was not read. What was"
            " accepted is not taken twice when all of it is sent again."
        )
        self._put(_encode(msgspec.structs.replace(told, detail=f"{told.detail} {state}")) + b"\n")


async def _next(body: AsyncIterator[bytes], until: float) -> bytes | None:
    async with asyncio.timeout_at(until):
        return await anext(body, None)


def _too_large(what: str) -> Problem:
    detail = f"The body has {what}. Split it into calls of at most {MAX_LINES} lines and {MAX_BYTES >> 20} MiB."
    return Problem(413, "too-large", "The batch is too large", detail)


def problem(refused: Refused) -> Problem:
    """A refused post as the answer to it."""
    errors = [InputError(fault.pointer, fault.detail) for fault in refused.faults]
    return Problem(refused.status, refused.slug, refused.title, str(refused), errors=errors)


def overloaded(error: Overloaded) -> Problem:
    """429: the queue is full."""
    return Problem(429, "overloaded", "Too much at a time", str(error), retry_after=1)


def not_taken(poison: Poison) -> Problem:
    """413: Kafka does not take a record of this size."""
    detail = f"Kafka does not take the item's record: {poison.reason}. Make the item smaller."
    return Problem(413, "too-large", "The item is too large", detail)


def _passing(error: PiepowderError) -> ProblemDetails:
    return (unavailable(error) if isinstance(error, Transient) else overloaded(Overloaded())).details
