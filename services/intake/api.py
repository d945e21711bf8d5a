"""The REST of items. Posting stands on the operating model and Kafka alone; asking (`services.intake.asking`) stands on
the database alone; taking an item back stands on both."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from fastapi import FastAPI
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.intake import bodies, metrics, openapi, waiting
from services.intake.answers import receipt, withdrawal_receipt
from services.intake.asking import Asking, Following, uuid
from services.intake.batch import MAX_BYTES, Batch, not_taken, overloaded, problem
from services.intake.domain.faults import Fault
from services.intake.domain.posts import Refused
from services.intake.handlers import Accepted, Front, Overloaded
from services.intake.withdrawals import MAX_REASON, NotKnown, Withdrawals
from shared.auth.authenticator import Authenticator, charge, record_refused
from shared.auth.principal import Principal
from shared.http.http import HANG_UP, Problem, Shortcut, json_response, not_ready, query_of, unavailable
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Poison, Transient
from shared.runtime.readiness import Readiness

log = logging.getLogger(__name__)

NDJSON: Final = "application/x-ndjson"
_NDJSON_NAMES: Final = frozenset({NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_CLIENT_GONE: Final = 499  # nobody reads it; it tells a hang-up from a refusal in the metrics


class _ItemName(StringConvertor):
    regex = "(?!batch$)[^/]+"


register_url_convertor("item", _ItemName())


def add_routes(
    app: FastAPI,
    *,
    front: Front,
    withdrawals: Withdrawals,
    following: Following,
    authenticator: Authenticator,
    readiness: Readiness,
    clock: Clock,
    batch_calls: int,
    idle_seconds: float,
) -> ASGIApp:
    """The routes of items; returns what is to be served."""
    asking = Asking(following, authenticator, readiness, clock)
    posting = Posting(
        front, asking, authenticator, readiness, clock, batch_calls=batch_calls, idle_seconds=idle_seconds
    )
    withdrawing = Withdrawing(withdrawals, following, authenticator, readiness)
    app.add_route("/v1/items", posting.one, methods=["POST"])
    app.add_route("/v1/items", asking.items, methods=["GET"])
    app.add_route("/v1/items/batch", posting.batch, methods=["POST"])
    app.add_route("/v1/items/{item_id:item}", asking.item, methods=["GET"])
    app.add_route("/v1/items/{item_id:item}", withdrawing.item, methods=["DELETE"])
    app.add_route("/v1/subjects/{platform}/{kind}/{id:path}", asking.subject, methods=["GET"])
    app.add_route("/v1/totals", asking.totals, methods=["GET"])
    openapi.describe(app)
    return Shortcut(app, {("POST", "/v1/items"): posting.one})


class Posting:
    """The routes that take items in; at most `batch_calls` batch calls at a time, and none that idles for longer."""

    def __init__(
        self,
        front: Front,
        asking: Asking,
        authenticator: Authenticator,
        readiness: Readiness,
        clock: Clock,
        *,
        batch_calls: int,
        idle_seconds: float,
    ) -> None:
        self._front = front
        self._asking = asking
        self._authenticator = authenticator
        self._readiness = readiness
        self._clock = clock
        self._batch_calls = batch_calls
        self._idle_seconds = idle_seconds
        self._batches = 0
        self._outcomes = {n: metrics.ITEMS.labels(str(n)) for n in (202, 400, 403, 408, 413, 422, 429, 503)}

    async def one(self, request: Request) -> Response:
        """`POST /v1/items`."""
        client, head = self._asked(request, "application/json")
        charge(request, 1)
        try:
            body = await bodies.whole(request, head, self._idle_seconds)
            accepted = self._front.prepare(body, client, to_text(self._clock.now()))
            await self._front.submit([accepted])
        except Refused as refused:
            answer = problem(refused)
        except Overloaded as error:
            answer = overloaded(error)
        except Transient as error:
            answer = unavailable(error)
        except Poison as poison:
            answer = not_taken(poison)
        except Problem as unreadable:
            answer = unreadable
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        else:
            self._outcomes[202].inc()
            return await self._accepted(client, accepted, head)
        self._outcomes[answer.details.status].inc()
        raise answer

    async def _accepted(self, client: Principal, accepted: Accepted, head: bodies.Head) -> Response:
        seconds = waiting.preferred(head.prefer) if head.prefer else 0
        known = await self._asking.decided(client, accepted.item_id, seconds) if seconds else None
        if known is None:
            return json_response(receipt(accepted), 202)
        return json_response(receipt(accepted, known), 202, {"Preference-Applied": f"wait={seconds}"})

    async def batch(self, request: Request) -> Response:
        """`POST /v1/items/batch`."""
        client, head = self._asked(request, *_NDJSON_NAMES)
        if head.length > MAX_BYTES:
            raise Problem(
                413,
                "too-large",
                "The batch is too large",
                f"The body is larger than {MAX_BYTES >> 20} MiB; nothing was taken. Split it into several calls.",
            )
        if self._batches >= self._batch_calls:
            raise overloaded(Overloaded())
        verdicts = self._verdicts(request, client, bodies.pieces(request, head))
        try:
            first = await anext(verdicts)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        return _Streamed(first, verdicts, media_type=NDJSON, patience=self._idle_seconds)

    async def _verdicts(
        self, request: Request, client: Principal, body: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        self._batches += 1
        batch = Batch(self._front, client, self._clock, idle_seconds=self._idle_seconds)
        try:
            async with aclosing(batch.take(body)) as verdicts:
                async for some in verdicts:
                    yield some
        finally:
            self._batches -= 1
            charge(request, batch.outcomes.total())
            for slug, count in batch.forbidden.items():
                record_refused(request, slug, 403, count)

    def _asked(self, request: Request, *content_types: str) -> tuple[Principal, bodies.Head]:
        client = self._authenticator.principal(request, "items:write")
        head = bodies.head(request)
        bodies.require(head, *content_types)
        if self._front.ownership is None:
            raise not_ready(self._readiness)
        return client, head


class _Streamed(Response):
    """An answer that is sent while it comes into being; who does not take it for `patience` seconds is hung up on."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], *, media_type: str, patience: float) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"Accept-Encoding": bodies.CODINGS})
        self._first = first
        self._rest = rest
        self._patience = patience

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        async def give(some: bytes) -> None:
            async with asyncio.timeout(self._patience):
                await send({"type": "http.response.body", "body": some, "more_body": True})

        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await give(self._first)
                async for some in self._rest:
                    await give(some)
            except TimeoutError:
                log.warning("a client did not take its verdicts", extra={"seconds": self._patience})
                scope["extensions"][HANG_UP]["abort"]()
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Withdrawing:
    """The route that takes an item back."""

    def __init__(
        self, withdrawals: Withdrawals, following: Following, authenticator: Authenticator, readiness: Readiness
    ) -> None:
        self._withdrawals = withdrawals
        self._following = following
        self._authenticator = authenticator
        self._readiness = readiness

    async def item(self, request: Request) -> Response:
        """`DELETE /v1/items/{item_id}`."""
        client = self._authenticator.principal(request, "items:write")
        statuses = self._following.statuses
        if statuses is None:
            raise not_ready(self._readiness)
        try:
            reason = _reason(request)
            item_id = uuid(request.path_params["item_id"])
            if item_id is None:
                raise NotKnown(f"No item {request.path_params['item_id']!r:.60} is known: expected a UUID.")
            withdrawal = await self._withdrawals.withdraw(item_id, reason, client, statuses)
        except Refused as refused:
            answer = problem(refused)
        except NotKnown as unknown:
            answer = Problem(404, "not-found", "No such item", str(unknown))
        except Overloaded as error:
            answer = overloaded(error)
        except Transient as error:
            answer = unavailable(error)
        else:
            metrics.WITHDRAWALS.labels("202").inc()
            return json_response(withdrawal_receipt(withdrawal), 202)
        metrics.WITHDRAWALS.labels(str(answer.details.status)).inc()
        raise answer


def _reason(request: Request) -> str:
    """`?reason=`; raises Refused for what does not fit, and for any other parameter."""
    query = query_of(request)
    others = sorted(set(query) - {"reason"})
    faults = [Fault(f"/query/{name[:100]}", "is no parameter of this call; it takes reason") for name in others]
    given = query.getlist("reason")
    if len(given) > 1:
        faults.append(Fault("/query/reason", "is given more than once"))
    if any(len(text) > MAX_REASON or not text.isprintable() for text in given):
        faults.append(Fault("/query/reason", f"expected at most {MAX_REASON} printable characters"))
    if faults:
        raise Refused(422, "invalid-request", "The request does not fit", faults)
    return given[0] if given else ""
