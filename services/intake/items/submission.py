"""The two hot paths, `POST /v1/items` and `POST /v1/items/batch`.

They bypass FastAPI's validation: msgspec decodes the items, and `shared.http.app.FastPath` calls `post_item` without
the framework's layers. Submission needs only the operating model and Kafka.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.intake import metrics
from services.intake.items import long_poll
from services.intake.items.batch import MAX_BYTES, Batch
from services.intake.items.domain import posts
from services.intake.items.handlers import ItemIntake, PreparedItem
from services.intake.items.queries import ItemQueries
from services.intake.items.views import fast_receipt
from services.intake.problems import submission_problem
from services.intake.publishing.regions import Overloaded
from shared.auth.authenticator import charge, record_refused
from shared.auth.principal import Principal
from shared.http import encoded_bodies
from shared.http.encoded_bodies import BodyHeaders
from shared.http.problems import BODY_TOO_LARGE, OVERLOADED, Problem, not_ready
from shared.http.responses import json_response
from shared.http.route import CLIENT_CLOSED_REQUEST, Available
from shared.http.server import DISCONNECT, stopping
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Poison, Transient
from shared.runtime.readiness import Readiness
from shared.validation.faults import InputRejected

log = logging.getLogger(__name__)

WRITE: Final = "items:write"
NDJSON: Final = "application/x-ndjson"
available_queries: Final = Available[ItemQueries]("item_queries")
_NDJSON_TYPES: Final = (NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines")


class ItemSubmission:
    """Handles submissions: at most `max_batches` batch calls at the same time, each idle for at most `idle_seconds`."""

    def __init__(
        self, intake: ItemIntake, readiness: Readiness, clock: Clock, *, max_batches: int, idle_seconds: float
    ) -> None:
        self._intake = intake
        self._readiness = readiness
        self._clock = clock
        self._max_batches = max_batches
        self._idle_seconds = idle_seconds
        self._batches = 0
        self._outcomes = {n: metrics.ITEMS.labels(str(n)) for n in (202, 400, 403, 408, 413, 422, 429, 503)}

    async def post_item(self, request: Request) -> Response:
        """`POST /v1/items`."""
        client, head = self._accept(request, "application/json")
        charge(request, 1)
        try:
            body = await encoded_bodies.whole(
                request, head, self._idle_seconds, limit=posts.MAX_BODY_BYTES, too_large=posts.too_large
            )
            body = body.removeprefix(encoded_bodies.BYTE_ORDER_MARK)
            item = self._intake.prepare(body, client, to_text(self._clock.now()))
            await self._intake.submit([item])
        except (InputRejected, Overloaded, Poison, Problem, Transient) as error:
            problem = submission_problem(error)
            self._outcomes[problem.details.status].inc()
            raise problem from error
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        self._outcomes[202].inc()
        return await self._receipt(request, client, item, head)

    async def _receipt(self, request: Request, client: Principal, item: PreparedItem, head: BodyHeaders) -> Response:
        seconds = long_poll.preferred(head.prefer) if head.prefer else 0
        queries = available_queries.peek(request) if seconds else None
        status = None if queries is None else await queries.decided(client, item.item_id, seconds)
        receipt = fast_receipt(item)
        if status is None:
            return json_response(receipt, 202)
        encoded = msgspec.Raw(status.model_dump_json(exclude_defaults=True).encode())
        receipt = msgspec.structs.replace(receipt, status=encoded)
        return json_response(receipt, 202, {"Preference-Applied": f"wait={seconds}"})

    async def post_batch(self, request: Request) -> Response:
        """`POST /v1/items/batch`."""
        client, head = self._accept(request, *_NDJSON_TYPES)
        if head.length > MAX_BYTES:
            raise BODY_TOO_LARGE(
                f"The body is larger than {MAX_BYTES >> 20} MiB; no item was accepted. Split it into calls."
            )
        if self._batches >= self._max_batches:
            raise OVERLOADED(str(Overloaded()), retry_after=1)
        verdicts = self._verdicts(request, client, encoded_bodies.pieces(request, head))
        try:
            first = await anext(verdicts)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return _StreamingVerdicts(first, verdicts, patience=self._idle_seconds)

    async def _verdicts(
        self, request: Request, client: Principal, body: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        self._batches += 1
        batch = Batch(self._intake, client, self._clock, idle_seconds=self._idle_seconds)
        try:
            async with aclosing(batch.verdicts(body)) as verdicts:
                async for some in verdicts:
                    yield some
        finally:
            self._batches -= 1
            charge(request, batch.outcomes.total())
            for slug, count in batch.forbidden.items():
                record_refused(request, slug, 403, count)

    def _accept(self, request: Request, *content_types: str) -> tuple[Principal, BodyHeaders]:
        client: Principal = request.app.state.authenticator.principal(request, WRITE)
        head = encoded_bodies.head(request)
        encoded_bodies.require(head, *content_types)
        if self._intake.ownership is None:
            raise not_ready(self._readiness)
        return client, head


class _StreamingVerdicts(Response):
    """A streaming response; disconnects a client that reads nothing for `patience` seconds.

    If the service stops before the last verdict, the last line is a problem.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], *, patience: float) -> None:
        self.status_code = 200
        self.media_type = NDJSON
        self.background = None
        self.init_headers({"Accept-Encoding": encoded_bodies.CODINGS})
        self._first = first
        self._rest = rest
        self._patience = patience

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        async def send_piece(piece: bytes) -> None:
            async with asyncio.timeout(self._patience):
                await send({"type": "http.response.body", "body": piece, "more_body": True})

        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await send_piece(self._first)
                async for piece in self._rest:
                    await send_piece(piece)
            except TimeoutError:
                log.warning("a client did not read its verdicts", extra={"seconds": self._patience})
                scope["extensions"][DISCONNECT]["abort"]()
                return
            except asyncio.CancelledError:
                last = msgspec.json.encode(stopping().details) + b"\n"
                await send({"type": "http.response.body", "body": last, "more_body": False})
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
