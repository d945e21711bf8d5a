"""A batch call: lines in, a verdict a line out, in memory bounded by some hundred lines and the verdicts.

Lines are judged while the body is still coming and handed over in chunks; one chunk is under way while the next is
read, and never two, so that a subject's versions stay in order. What was handed over stays accepted whatever happens to
the rest of the call: ids repeat, so sending the whole again is always right. A last line that the connection cut off is
not taken.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final, TypeAlias

import msgspec

from services.intake.domain import posts
from services.intake.domain.posts import Refused
from services.intake.handlers import Accepted, Front, Overloaded
from services.intake.ndjson import Line, Splitter
from shared import metrics
from shared.auth import Client
from shared.clock import Clock, to_text
from shared.errors import PiepowderError, Poison, Transient
from shared.http import InputError, Problem, ProblemDetails, unavailable

MAX_LINES: Final = 10_000
MAX_BYTES: Final = 64 * 2**20
_CHUNK_LINES: Final = 1_000
_CHUNK_BYTES: Final = 2**20

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
    """One call."""

    def __init__(self, front: Front, client: Client, clock: Clock) -> None:
        self._front = front
        self._client = client
        self._clock = clock
        self._outcomes: Counter[int] = Counter()
        self._verdicts: list[bytes] = []
        self._chunk: list[_Judged] = []
        self._chunk_bytes = 0
        self._sent: list[_Judged] = []
        self._sending: asyncio.Task[None] | None = None
        self._broken: ProblemDetails | None = None

    async def take(self, body: AsyncIterator[bytes]) -> bytes:
        """The verdicts, one a line that is not blank, in their order.

        Raises Problem 400 for a body without lines, 413 for too many, 503 or 429 when Kafka took none. Whatever `body`
        raises goes through, after what is under way has ended.
        """
        try:
            await self._read(body)
            await self._hand_over()
            await self._settle()
        finally:
            if self._sending is not None:
                await asyncio.wait([self._sending])
            for status, n in self._outcomes.items():
                metrics.ITEMS.labels(str(status)).inc(n)
        if not self._verdicts:
            raise Problem(
                400, "empty", "The body is empty", "No line has an item; expected a JSON object on each line."
            )
        return b"\n".join(self._verdicts) + b"\n"

    async def _read(self, body: AsyncIterator[bytes]) -> None:
        lines = Splitter(posts.MAX_BODY_BYTES)
        count = size = 0
        received_at = to_text(self._clock.now())
        async for data in body:
            size += len(data)
            if size > MAX_BYTES:
                raise await self._too_much(f"more than {MAX_BYTES >> 20} MiB")
            for line in lines.feed(data):
                count += 1
                if count > MAX_LINES:
                    raise await self._too_much(f"more than {MAX_LINES} lines")
                self._judge(line, received_at)
                if len(self._chunk) >= _CHUNK_LINES or self._chunk_bytes >= _CHUNK_BYTES:
                    await self._hand_over()
                    received_at = to_text(self._clock.now())
        for line in lines.end():
            if count >= MAX_LINES:
                raise await self._too_much(f"more than {MAX_LINES} lines")
            self._judge(line, received_at)

    def _judge(self, line: Line, received_at: str) -> None:
        number, text = line
        try:
            if text is None:
                raise posts.too_large("the line")
            self._chunk.append((number, self._front.prepare(text, self._client, received_at)))
            self._chunk_bytes += len(text)
        except Refused as refused:
            self._chunk.append((number, self._refuse(number, problem(refused).details)))

    async def _hand_over(self) -> None:
        await self._settle()
        self._sent, self._chunk, self._chunk_bytes = self._chunk, [], 0
        accepted = [one for _, one in self._sent if not isinstance(one, bytes)]
        if accepted and self._broken is None:
            self._sending = asyncio.create_task(self._front.submit(accepted, patient=True))

    async def _settle(self) -> None:
        """Wait for the chunk under way and write its verdicts."""
        refused: dict[int, ProblemDetails] = {}
        if self._sending is not None:
            await asyncio.wait([self._sending])
            try:
                self._sending.result()
            except (Transient, Overloaded) as error:
                self._broken = _passing(error)
                if not self._outcomes[202]:
                    raise self._none_accepted(self._broken) from error
            except Poison:
                refused = await self._one_by_one()
            finally:
                self._sending = None
        accepted = 0
        for number, one in self._sent:
            if isinstance(one, bytes):
                self._verdicts.append(one)
            elif self._broken is None and number not in refused:
                accepted += 1
                self._verdicts.append(_encode(AcceptedLine(number, 202, one.item_id, one.subject, one.regions)))
            else:
                self._verdicts.append(self._refuse(number, self._broken or refused[number]))
        self._outcomes[202] += accepted
        self._sent = []

    async def _one_by_one(self) -> dict[int, ProblemDetails]:
        """Kafka does not take one of the chunk: find which."""
        refused: dict[int, ProblemDetails] = {}
        for number, one in self._sent:
            if not isinstance(one, bytes):
                try:
                    await self._front.submit([one], patient=True)
                except Poison as poison:
                    refused[number] = not_taken(poison).details
                except (Transient, Overloaded) as error:
                    refused[number] = _passing(error)
        return refused

    def _refuse(self, line: int, why: ProblemDetails) -> bytes:
        self._outcomes[why.status] += 1
        return _encode(RefusedLine(line, why.status, why.type, why.title, why.detail, why.errors, why.retry_after))

    def _none_accepted(self, why: ProblemDetails) -> Problem:
        self._outcomes[why.status] += sum(1 for _, one in self._sent if not isinstance(one, bytes))
        slug = why.type.rpartition(":")[2]
        detail = f"No line was accepted. {why.detail}"
        return Problem(why.status, slug, why.title, detail, retry_after=why.retry_after)

    async def _too_much(self, what: str) -> Problem:
        await self._hand_over()
        await self._settle()
        taken, refused = self._outcomes[202], self._outcomes.total() - self._outcomes[202]
        return Problem(
            413,
            "too-large",
            "The batch is too large",
            f"The body has {what}. Of the lines before, {taken} were accepted and {refused} refused; the rest was not"
            f" read. Split it into calls of at most {MAX_LINES} lines and {MAX_BYTES >> 20} MiB and send all of it"
            " again: what was accepted is not taken twice.",
        )


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
