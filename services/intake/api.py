"""Intake's REST. Posting stands on the operating model and Kafka alone; asking stands on the database alone."""

from typing import Final
from uuid import UUID

import msgspec
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.intake import openapi
from services.intake.batch import MAX_BYTES, Batch, not_taken, overloaded, problem
from services.intake.domain import posts
from services.intake.domain.posts import Refused
from services.intake.domain.status import Decision, Facts, Status, dead, status, updated_at
from services.intake.handlers import Accepted, Front, Overloaded
from services.intake.store import ItemStatuses
from shared import metrics
from shared.auth import Authenticator, Client
from shared.clock import Clock, to_text
from shared.errors import Poison, Transient
from shared.http import Problem, json_response, not_ready, unavailable
from shared.readiness import Readiness

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
    """Where an item is in a region; `reason` says why it was set aside or what superseded it."""

    status: Status
    updated_at: str
    queue: str = ""
    due_at: str = ""
    verdict: str = ""
    case_id: str = ""
    decision: DecisionAnswer | None = None
    reason: str = ""


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


class Following:
    """The status side; `statuses` is None until the database is there."""

    def __init__(self, regions: list[str]) -> None:
        self.regions = regions
        self.statuses: ItemStatuses | None = None


def add_routes(
    app: FastAPI,
    *,
    front: Front,
    following: Following,
    authenticator: Authenticator,
    readiness: Readiness,
    clock: Clock,
    batch_calls: int,
) -> None:
    """`POST /v1/items`, `POST /v1/items/batch`, `GET /v1/items/{item_id}`, `GET /v1/totals`."""
    posting = Posting(front, authenticator, readiness, clock, batch_calls)
    asking = Asking(following, authenticator, readiness, clock)
    app.add_route("/v1/items", posting.one, methods=["POST"])
    app.add_route("/v1/items/batch", posting.batch, methods=["POST"])
    app.add_route("/v1/items/{item_id}", asking.item, methods=["GET"])
    app.add_route("/v1/totals", asking.totals, methods=["GET"])
    openapi.describe(app, posts.Post, Receipt, ItemAnswer, TotalsAnswer)


class Posting:
    """The routes that take items in; at most `batch_calls` batch calls at a time."""

    def __init__(
        self, front: Front, authenticator: Authenticator, readiness: Readiness, clock: Clock, batch_calls: int
    ) -> None:
        self._front = front
        self._authenticator = authenticator
        self._readiness = readiness
        self._clock = clock
        self._batch_calls = batch_calls
        self._batches = 0
        self._outcomes = {number: metrics.ITEMS.labels(str(number)) for number in (202, 400, 403, 413, 422, 429, 503)}

    async def one(self, request: Request) -> Response:
        """`POST /v1/items`."""
        client = self._client(request, "application/json")
        try:
            body = await _body(request)
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
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        else:
            self._outcomes[202].inc()
            return json_response(_receipt(accepted), 202)
        self._outcomes[answer.details.status].inc()
        raise answer

    async def batch(self, request: Request) -> Response:
        """`POST /v1/items/batch`."""
        client = self._client(request, *_NDJSON_NAMES)
        if _content_length(request) > MAX_BYTES:
            raise Problem(
                413,
                "too-large",
                "The batch is too large",
                f"The body is larger than {MAX_BYTES >> 20} MiB; nothing was taken. Split it into several calls.",
            )
        if self._batches >= self._batch_calls:
            raise overloaded(Overloaded())
        self._batches += 1
        try:
            verdicts = await Batch(self._front, client, self._clock).take(request.stream())
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        finally:
            self._batches -= 1
        return Response(verdicts, media_type=NDJSON)

    def _client(self, request: Request, *content_types: str) -> Client:
        client = self._authenticator.client(request, "items:write")
        _require_content_type(request, *content_types)
        if self._front.ownership is None:
            raise not_ready(self._readiness)
        return client


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
        moment = await statuses.handled_until(regions)
        if moment is None:
            return ProjectionAnswer(None)
        return ProjectionAnswer(max(0.0, round((self._clock.now() - moment).total_seconds(), 3)))


def _require_content_type(request: Request, *known: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in known:
        names = " or ".join(sorted(known))
        detail = f"The body's Content-Type is {given or 'missing'!r}; expected {names}."
        raise Problem(415, "unsupported-media-type", "The body is of another kind", detail)
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise Problem(
            415,
            "unsupported-content-coding",
            "The body is compressed",
            f"The body's Content-Encoding is {coding!r:.40}; send it uncompressed.",
            headers={"Accept-Encoding": "identity"},
        )


async def _body(request: Request) -> bytes:
    """The body; raises Refused as soon as it is known to be too large, without reading on."""
    if _content_length(request) > posts.MAX_BODY_BYTES:
        raise posts.too_large()
    body = b""
    async for data in request.stream():
        body = body + data if body else data
        if len(body) > posts.MAX_BODY_BYTES:
            raise posts.too_large()
    return body.removeprefix(b"\xef\xbb\xbf")


def _content_length(request: Request) -> int:
    return int(request.headers.get("content-length", 0))  # the server has refused what is no number


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
    opened, decision, letter = facts.opened, facts.decision, dead(facts)
    reason = letter.reason if letter else f"superseded by {facts.superseded.by}" if facts.superseded else ""
    return RegionStatus(
        status(facts),
        updated_at(facts),
        opened.queue if opened else "",
        opened.due_at if opened else "",
        opened.verdict if opened else "",
        opened.case_id if opened else "",
        None if decision is None else _decision_answer(decision),
        reason,
    )


def _decision_answer(decision: Decision) -> DecisionAnswer:
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
