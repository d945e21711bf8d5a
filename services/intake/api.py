"""Intake's REST. Posting stands on the operating model and Kafka alone; asking stands on the database alone; taking an
item back stands on both."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final
from uuid import UUID

import msgspec
from fastapi import FastAPI
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.intake import bodies, openapi
from services.intake.batch import MAX_BYTES, Batch, not_taken, overloaded, problem
from services.intake.domain import posts
from services.intake.domain.faults import Fault
from services.intake.domain.posts import Refused
from services.intake.domain.status import Decision, Facts, Status, dead, status, updated_at, withdrawn
from services.intake.handlers import Accepted, Front, Overloaded
from services.intake.store import ItemStatuses
from services.intake.withdrawals import MAX_REASON, NotKnown, Withdrawal, Withdrawals
from shared import metrics
from shared.auth import Authenticator, Client, charge, note_refused
from shared.clock import Clock, to_text
from shared.errors import Poison, Transient
from shared.http import HANG_UP, Problem, Shortcut, json_response, not_ready, unavailable
from shared.readiness import Readiness

log = logging.getLogger(__name__)

NDJSON: Final = "application/x-ndjson"
_NDJSON_NAMES: Final = frozenset({NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_CLIENT_GONE: Final = 499  # nobody reads it; it tells a hang-up from a refusal in the metrics


class RegionReceipt(msgspec.Struct, frozen=True):
    """The event that a region's topic acknowledged."""

    event_id: str


class Receipt(msgspec.Struct, frozen=True):
    """The answer to an accepted item; the same post again gets the same."""

    item_id: str
    subject: str
    version: int | None
    content_hash: str
    regions: dict[str, RegionReceipt]
    status_url: str


class WithdrawalReceipt(msgspec.Struct, frozen=True):
    """The answer to an item that was taken back; the same again gets the same."""

    item_id: str
    subject: str
    regions: dict[str, RegionReceipt]
    status_url: str


class DecisionAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The decision in force."""

    decision_id: str
    action: str
    reasons: list[str]
    automated: bool
    policy_set: str
    decided_at: str
    reviewer: str = ""
    team: str = ""


class RegionStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an item is in a region; `reason` says why it was set aside or withdrawn, or what superseded it.

    `withdrawn_at` is when it was taken back; the status is `withdrawn` once no case of it is open any more, unless it
    was decided or superseded before.
    """

    status: Status
    updated_at: str
    queue: str = ""
    due_at: str = ""
    verdict: str = ""
    case_id: str = ""
    decision: DecisionAnswer | None = None
    reason: str = ""
    withdrawn_at: str = ""


class ProjectionAnswer(msgspec.Struct, frozen=True):
    """How far the answer may be behind the topics, in seconds; null when that is not known yet."""

    lag_seconds: float | None


class ItemAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item's status by region. `conflict`: the version was posted again with other content; the first stands."""

    item_id: str
    subject: str | None
    version: int | None
    received_at: str | None
    regions: dict[str, RegionStatus]
    projection: ProjectionAnswer
    conflict: bool = False


class TotalsAnswer(msgspec.Struct, frozen=True):
    """How many items are where, by region and status."""

    regions: dict[str, dict[str, int]]
    projection: ProjectionAnswer


class _ItemName(StringConvertor):
    regex = "(?!batch$)[^/]+"


register_url_convertor("item", _ItemName())


class Following:
    """The status side; `statuses` is None until the database is there."""

    def __init__(self, regions: list[str]) -> None:
        self.regions = regions
        self.statuses: ItemStatuses | None = None


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
    """`POST /v1/items`, `POST /v1/items/batch`, `GET` and `DELETE /v1/items/{item_id}`, `GET /v1/totals`; returns what
    is to be served."""
    posting = Posting(front, authenticator, readiness, clock, batch_calls=batch_calls, idle_seconds=idle_seconds)
    withdrawing = Withdrawing(withdrawals, following, authenticator, readiness)
    asking = Asking(following, authenticator, readiness, clock)
    app.add_route("/v1/items", posting.one, methods=["POST"])
    app.add_route("/v1/items/batch", posting.batch, methods=["POST"])
    app.add_route("/v1/items/{item_id:item}", asking.item, methods=["GET"])
    app.add_route("/v1/items/{item_id:item}", withdrawing.item, methods=["DELETE"])
    app.add_route("/v1/totals", asking.totals, methods=["GET"])
    openapi.describe(
        app, post=posts.Post, receipt=Receipt, withdrawal=WithdrawalReceipt, item=ItemAnswer, totals=TotalsAnswer
    )
    return Shortcut(app, {("POST", "/v1/items"): posting.one})


class Posting:
    """The routes that take items in; at most `batch_calls` batch calls at a time, and none that idles for longer."""

    def __init__(
        self,
        front: Front,
        authenticator: Authenticator,
        readiness: Readiness,
        clock: Clock,
        *,
        batch_calls: int,
        idle_seconds: float,
    ) -> None:
        self._front = front
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
            return json_response(_receipt(accepted), 202)
        self._outcomes[answer.details.status].inc()
        raise answer

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
        self, request: Request, client: Client, body: AsyncIterator[bytes]
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
            note_refused(request, "region-not-allowed", 403, batch.outcomes[403])

    def _asked(self, request: Request, *content_types: str) -> tuple[Client, bodies.Head]:
        client = self._authenticator.client(request, "items:write")
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
        client = self._authenticator.client(request, "items:write")
        statuses = self._following.statuses
        if statuses is None:
            raise not_ready(self._readiness)
        try:
            reason = _reason(request)
            item_id = _uuid(request.path_params["item_id"])
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
            return json_response(_withdrawal_receipt(withdrawal), 202)
        metrics.WITHDRAWALS.labels(str(answer.details.status)).inc()
        raise answer


class Asking:
    """The routes that tell what became of items, in the regions of the key."""

    def __init__(self, following: Following, authenticator: Authenticator, readiness: Readiness, clock: Clock) -> None:
        self._following = following
        self._authenticator = authenticator
        self._readiness = readiness
        self._clock = clock

    async def item(self, request: Request) -> Response:
        """`GET /v1/items/{item_id}`."""
        client, statuses = self._allowed(request)
        given = request.path_params["item_id"]
        item_id = _uuid(given)
        known = {} if item_id is None else await statuses.of_item(item_id)
        regions = {region: facts for region, facts in sorted(known.items()) if client.may_act_in(region)}
        lag = await self._lag(statuses, list(regions) or self._following.regions)
        if item_id is None or not regions:
            behind = (
                "" if lag.lag_seconds is None else f" What was posted in the last {lag.lag_seconds:g} s may be missing."
            )
            raise Problem(
                404, "not-found", "No such item", f"No item {given!r:.60} is known in a region of this key.{behind}"
            )
        return json_response(_item_answer(item_id, regions, lag))

    async def totals(self, request: Request) -> Response:
        """`GET /v1/totals`."""
        client, statuses = self._allowed(request)
        regions = [region for region in self._following.regions if client.may_act_in(region)]
        totals = await statuses.totals()
        lag = await self._lag(statuses, regions)
        return json_response(TotalsAnswer({region: totals.get(region, {}) for region in regions}, lag))

    def _allowed(self, request: Request) -> tuple[Client, ItemStatuses]:
        client = self._authenticator.client(request, "items:read")
        if self._following.statuses is None:
            raise not_ready(self._readiness)
        return client, self._following.statuses

    async def _lag(self, statuses: ItemStatuses, regions: list[str]) -> ProjectionAnswer:
        return await projection(statuses, regions, self._clock)


async def projection(statuses: ItemStatuses, regions: list[str], clock: Clock) -> ProjectionAnswer:
    """How far the answer about these regions may be behind."""
    moment = await statuses.handled_until(regions)
    if moment is None:
        return ProjectionAnswer(None)
    return ProjectionAnswer(max(0.0, round((clock.now() - moment).total_seconds(), 3)))


def _reason(request: Request) -> str:
    """`?reason=`; raises Refused for what does not fit, and for any other parameter."""
    others = sorted(set(request.query_params) - {"reason"})
    faults = [Fault(f"/query/{name[:100]}", "is no parameter of this call; it takes reason") for name in others]
    given = request.query_params.getlist("reason")
    if len(given) > 1:
        faults.append(Fault("/query/reason", "is given more than once"))
    if any(len(text) > MAX_REASON or not text.isprintable() for text in given):
        faults.append(Fault("/query/reason", f"expected at most {MAX_REASON} printable characters"))
    if faults:
        raise Refused(422, "invalid-request", "The request does not fit", faults)
    return given[0] if given else ""


def _uuid(text: str) -> str | None:
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _receipt(accepted: Accepted) -> Receipt:
    events = zip(accepted.regions, accepted.event_ids, strict=True)
    return Receipt(
        accepted.item_id,
        accepted.subject,
        accepted.version,
        accepted.content_hash,
        {region: RegionReceipt(event_id) for region, event_id in events},
        f"/v1/items/{accepted.item_id}",
    )


def _withdrawal_receipt(withdrawal: Withdrawal) -> WithdrawalReceipt:
    events = zip(withdrawal.regions, withdrawal.event_ids, strict=True)
    return WithdrawalReceipt(
        withdrawal.item_id,
        withdrawal.subject,
        {region: RegionReceipt(event_id) for region, event_id in events},
        f"/v1/items/{withdrawal.item_id}",
    )


def _item_answer(item_id: str, regions: dict[str, Facts], lag: ProjectionAnswer) -> ItemAnswer:
    submissions = [facts.submission for facts in regions.values() if facts.submission is not None]
    first = submissions[0] if submissions else None
    return ItemAnswer(
        item_id,
        max(facts.subject for facts in regions.values()) or None,
        first.version if first else None,
        first.received_at if first else None,
        {region: _region_status(facts) for region, facts in regions.items()},
        lag,
        any(facts.conflict for facts in regions.values()),
    )


def _region_status(facts: Facts) -> RegionStatus:
    opened, decision, withdrawal = facts.opened, facts.decision, facts.withdrawal
    return RegionStatus(
        status(facts),
        updated_at(facts),
        opened.queue if opened else "",
        opened.due_at if opened else "",
        opened.verdict if opened else "",
        opened.case_id if opened else "",
        None if decision is None else decision_answer(decision),
        _why(facts),
        withdrawal.at if withdrawal else "",
    )


def _why(facts: Facts) -> str:
    if withdrawn(facts):
        return facts.withdrawal.reason if facts.withdrawal else ""
    if letter := dead(facts):
        return letter.reason
    return f"superseded by {facts.superseded.by}" if facts.superseded else ""


def decision_answer(decision: Decision) -> DecisionAnswer:
    """A decision as it is shown."""
    return DecisionAnswer(
        decision.decision_id,
        decision.action,
        decision.reasons,
        decision.automated,
        decision.policy_set,
        decision.decided_at,
        decision.reviewer,
        decision.team,
    )
