"""The REST of notices and appeals. A notice stands on the operating model and Kafka alone; an appeal and every question
stand on the database too."""

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import msgspec
from fastapi import FastAPI
from prometheus_client import Counter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.intake import bodies, metrics
from services.intake.answers import DecisionAnswer, ProjectionAnswer, RegionReceipt, decision_answer
from services.intake.asking import Following, not_known, projection
from services.intake.batch import not_taken, overloaded, problem
from services.intake.domain import status
from services.intake.domain.posts import Refused
from services.intake.handlers import Overloaded
from services.intake.notices import openapi
from services.intake.notices.domain import lives
from services.intake.notices.domain.lives import APPEAL, NOTICE, ComplaintStatus, Facts
from services.intake.notices.domain.notices import MAX_BODY_BYTES, too_large
from services.intake.notices.handlers import Appeals, Notices, NotKnown, Taken
from services.intake.notices.store import Complaints
from shared.auth.authenticator import Authenticator
from shared.auth.principal import Principal
from shared.http.http import Handler, Problem, json_response, not_ready, unavailable
from shared.http.openapi_security import security
from shared.runtime.clock import Clock
from shared.runtime.errors import Poison, Transient
from shared.runtime.readiness import Readiness

READ: Final = "notices:read"
WRITE: Final = "notices:write"
READ_APPEALS: Final = "appeals:read"
WRITE_APPEALS: Final = "appeals:write"
_CLIENT_GONE: Final = 499


class NoticeReceipt(msgspec.Struct, frozen=True):
    """The answer to an accepted notice; the same again gets the same."""

    notice_id: str
    subject: str
    content_hash: str
    regions: dict[str, RegionReceipt]
    status_url: str


class AppealReceipt(msgspec.Struct, frozen=True):
    """The answer to an accepted appeal; the same again gets the same. `decision_id` is what it is about."""

    appeal_id: str
    subject: str
    decision_id: str
    content_hash: str
    regions: dict[str, RegionReceipt]
    status_url: str


class RegionStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a notice or an appeal is in a region; `reason` says why it was set aside or closed undecided."""

    status: ComplaintStatus
    updated_at: str
    queue: str = ""
    due_at: str = ""
    case_id: str = ""
    decision: DecisionAnswer | None = None
    reason: str = ""


class NoticeAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A notice's status by region, for the client that gave it. `conflict`: it came again with other content, in one of
    these regions or in another of them; in each the first that came there stands."""

    notice_id: str
    subject: str | None
    reference: str | None
    received_at: str | None
    regions: dict[str, RegionStatus]
    projection: ProjectionAnswer
    conflict: bool = False


class AppealAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An appeal's status in its region, for the client that made it, and what it is about: a decision on an item or a
    notice. `conflict`: it came again with other content; the first stands."""

    appeal_id: str
    subject: str | None
    reference: str | None
    received_at: str | None
    decision_id: str | None
    regions: dict[str, RegionStatus]
    projection: ProjectionAnswer
    item_id: str = ""
    notice_id: str = ""
    conflict: bool = False


class Shelf:
    """What is known of notices and appeals, once the database answers; until then a call is answered 503."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self.complaints: Complaints | None = None

    def open(self) -> Complaints:
        """What is known; raises a 503 Problem that says what is lacking."""
        if self.complaints is None:
            raise self.not_ready()
        return self.complaints

    def not_ready(self) -> Problem:
        """503: says what is lacking."""
        return not_ready(self._readiness)


class Desk:
    """The routes; `taking_in` says whether there is an operating model."""

    def __init__(
        self,
        *,
        notices: Notices,
        appeals: Appeals,
        shelf: Shelf,
        following: Following,
        taking_in: Callable[[], bool],
        authenticator: Authenticator,
        clock: Clock,
        idle_seconds: float,
    ) -> None:
        self._notices = notices
        self._appeals = appeals
        self._shelf = shelf
        self._following = following
        self._taking_in = taking_in
        self._authenticator = authenticator
        self._clock = clock
        self._idle_seconds = idle_seconds

    def add_to(self, app: FastAPI) -> None:
        """`POST /v1/notices`, `GET /v1/notices/{notice_id}` and the same of appeals."""
        routes: list[tuple[str, str, str, Handler]] = [
            ("POST", "/v1/notices", WRITE, self.notify),
            ("GET", "/v1/notices/{notice_id}", READ, self.notice),
            ("POST", "/v1/appeals", WRITE_APPEALS, self.appeal),
            ("GET", "/v1/appeals/{appeal_id}", READ_APPEALS, self.heard),
        ]
        answers: tuple[type[msgspec.Struct], ...] = (NoticeReceipt, NoticeAnswer, AppealReceipt, AppealAnswer)
        for (method, path, scope, handle), answer in zip(routes, answers, strict=True):
            documented = openapi.described(method, path, answer)
            app.add_api_route(
                path,
                handle,
                methods=[method],
                status_code=documented.status,
                operation_id=documented.name,
                summary=documented.summary,
                description=documented.description,
                openapi_extra={"security": security(scope), **documented.extra},
            )

    async def notify(self, request: Request) -> Response:
        """`POST /v1/notices`."""
        client = self._authenticator.principal(request, WRITE)
        if not self._taking_in():
            raise self._shelf.not_ready()

        async def take(text: bytes) -> msgspec.Struct:
            taken = await self._notices.take(text, client)
            return NoticeReceipt(
                taken.id, taken.subject, taken.content_hash, _receipts(taken), f"/v1/notices/{taken.id}"
            )

        return await self._taken(request, metrics.NOTICES, take)

    async def appeal(self, request: Request) -> Response:
        """`POST /v1/appeals`."""
        client = self._authenticator.principal(request, WRITE_APPEALS)
        complaints = self._shelf.open()

        async def take(text: bytes) -> msgspec.Struct:
            taken = await self._appeals.take(text, client, complaints)
            return AppealReceipt(
                taken.id,
                taken.subject,
                taken.decision_id,
                taken.content_hash,
                _receipts(taken),
                f"/v1/appeals/{taken.id}",
            )

        return await self._taken(request, metrics.APPEALS, take)

    async def notice(self, request: Request) -> Response:
        """`GET /v1/notices/{notice_id}`."""
        client = self._authenticator.principal(request, READ)
        notice_id, regions, behind = await self._known(NOTICE, request.path_params["notice_id"], client)
        ways = [facts.way for facts in regions.values()]
        return json_response(
            NoticeAnswer(
                notice_id,
                *_named(ways, client),
                {region: _region_status(facts) for region, facts in regions.items()},
                behind,
                status.conflict(ways),
            )
        )

    async def heard(self, request: Request) -> Response:
        """`GET /v1/appeals/{appeal_id}`."""
        client = self._authenticator.principal(request, READ_APPEALS)
        appeal_id, regions, behind = await self._known(APPEAL, request.path_params["appeal_id"], client)
        ways = [facts.way for facts in regions.values()]
        contested = next((facts.contested for facts in regions.values() if facts.contested is not None), None)
        about = "" if contested is None else contested.item_id
        of_notice = contested is not None and contested.case_type == NOTICE
        return json_response(
            AppealAnswer(
                appeal_id,
                *_named(ways, client),
                None if contested is None else contested.decision_id,
                {region: _region_status(facts) for region, facts in regions.items()},
                behind,
                "" if of_notice else about,
                about if of_notice else "",
                status.conflict(ways),
            )
        )

    async def _taken(
        self, request: Request, outcomes: Counter, take: Callable[[bytes], Awaitable[msgspec.Struct]]
    ) -> Response:
        """The answer to a body that is to be taken in."""
        try:
            head = bodies.head(request)
            bodies.require(head, "application/json")
            text = await bodies.whole(request, head, self._idle_seconds, limit=MAX_BODY_BYTES, too_large=too_large)
            receipt = await take(text)
        except Refused as refused:
            answer = problem(refused)
        except NotKnown as unknown:
            answer = Problem(404, "not-found", "There is no such decision", str(unknown))
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
            outcomes.labels("202").inc()
            return json_response(receipt, 202)
        outcomes.labels(str(answer.details.status)).inc()
        raise answer

    async def _known(self, type_: str, given: str, client: Principal) -> tuple[str, dict[str, Facts], ProjectionAnswer]:
        """What is known of a notice or an appeal of the client's, in its regions; raises a 404 Problem without one."""
        complaints, statuses = self._shelf.open(), self._following.statuses
        if statuses is None:
            raise self._shelf.not_ready()
        of = _uuid(given)
        followed = await statuses.handled_until()
        known = {} if of is None else await complaints.of(type_, of)
        ways = {region: facts.way for region, facts in known.items()}
        theirs = lives.is_from(client.name, ways.values()) and client.may_act_for(status.platform(ways))
        regions = {region: facts for region, facts in sorted(known.items()) if theirs and client.may_act_in(region)}
        behind = projection(followed, list(regions) or self._following.regions, self._clock)
        if of is None or not regions:
            raise not_known(type_, f"{type_} {given!r:.60}", behind)
        return of, regions, behind


def _receipts(taken: Taken) -> dict[str, RegionReceipt]:
    return {region: RegionReceipt(event) for region, event in zip(taken.regions, taken.event_ids, strict=True)}


def _named(ways: list[status.Facts], client: Principal) -> tuple[str | None, str | None, str | None]:
    """Its subject, its reference where that is the client's own, and when it was received: of the first region that
    knows."""
    received = next((way.submission.received_at for way in ways if way.submission is not None), None)
    return max(way.subject for way in ways) or None, status.reference(ways, client.name) or None, received


def _region_status(facts: Facts) -> RegionStatus:
    way, letter = facts.way, status.dead(facts.way)
    closed = facts.closed.reason if facts.closed else ""
    return RegionStatus(
        lives.where(facts),
        lives.since(facts),
        way.opened.queue if way.opened else "",
        way.opened.due_at if way.opened else "",
        way.opened.case_id if way.opened else "",
        None if way.decision is None else decision_answer(way.decision),
        "" if way.decision is not None else closed or (letter.reason if letter else ""),
    )


def _uuid(text: str) -> str | None:
    try:
        return str(UUID(text))
    except ValueError:
        return None
