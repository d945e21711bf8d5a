"""The REST of business requests."""

import asyncio
import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import msgspec
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.intake.problems import overloaded, problem
from services.intake.publishing.regions import Overloaded
from services.intake.requests import openapi
from services.intake.requests.domain import drafts, lifecycle
from services.intake.requests.handlers import ANY_VERSION, Requests, Versions
from services.intake.requests.store import RequestCursor, RequestFilter, cursor_of
from services.intake.requests.views import PageView, comment_view, summary, view, whole
from shared.auth.authenticator import Authenticator
from shared.auth.clients import ANY
from shared.auth.principal import Principal
from shared.http import encoded_bodies
from shared.http.http import Handler, Problem, json_response, not_ready, query_of, read_idempotency_key
from shared.http.openapi_security import security
from shared.runtime.clock import from_text
from shared.runtime.readiness import Readiness
from shared.validation.faults import Fault, InputRejected

READ: Final = "requests:read"
WRITE: Final = "requests:write"
DECIDE: Final = "requests:decide"
PUT_IN_FORCE: Final = "requests:deploy"
COMMANDS: Final = {
    lifecycle.SUBMIT: WRITE,
    lifecycle.WITHDRAW: WRITE,
    lifecycle.APPROVE: DECIDE,
    lifecycle.REJECT: DECIDE,
    lifecycle.REVIEW: DECIDE,
    lifecycle.DEPLOY: PUT_IN_FORCE,
    lifecycle.ROLLBACK: PUT_IN_FORCE,
}
MAX_SMALL_BODY: Final = 64 * 1024
PAGE: Final = 50
LARGEST_PAGE: Final = 200
_CALLS: Final = 16
_CLIENT_GONE: Final = 499
_FILTERS: Final = ("state", "kind", "region", "sponsor", "limit", "cursor")
_are_tags = re.compile(r'(W/)?"[^"]*"(\s*,\s*(W/)?"[^"]*")*').fullmatch
_version_tags = re.compile(r'(?<!/)"([0-9]{1,9})"').findall


class Office:
    """Where business requests are dealt with once the database answers; until then a call is answered 503."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self.requests: Requests | None = None

    def open(self) -> Requests:
        """The use cases; raises a 503 Problem that says what is lacking."""
        if self.requests is None:
            raise not_ready(self._readiness)
        return self.requests


def add_routes(
    app: FastAPI, *, office: Office, authenticator: Authenticator, regions: list[str], idle_seconds: float
) -> None:
    """`/v1/requests` and what is below it."""
    desk = Desk(office, authenticator, regions, idle_seconds)
    one = "/v1/requests/{request_id}"
    routes: list[tuple[str, str, str, Handler]] = [
        ("POST", "/v1/requests", WRITE, desk.draft),
        ("GET", "/v1/requests", READ, desk.page),
        ("GET", one, READ, desk.show),
        ("PATCH", one, WRITE, desk.change),
        ("POST", f"{one}/comments", WRITE, desk.comment),
        *(("POST", f"{one}/{command}", scope, desk.command(command)) for command, scope in COMMANDS.items()),
    ]
    for method, path, scope, handle in routes:
        documented = openapi.OPERATIONS[method, path]
        app.add_api_route(
            path,
            _guarded(handle),
            methods=[method],
            status_code=documented.status,
            operation_id=documented.name,
            summary=documented.summary,
            description=documented.description,
            openapi_extra={"security": security(scope), **documented.extra},
        )


class Desk:
    """The routes; at most a few calls with a body at a time, for a body is kept whole while it is dealt with."""

    def __init__(self, office: Office, authenticator: Authenticator, regions: list[str], idle_seconds: float) -> None:
        self._office = office
        self._authenticator = authenticator
        self._regions = regions
        self._idle_seconds = idle_seconds
        self._calls = 0

    async def draft(self, request: Request) -> Response:
        """`POST /v1/requests`."""
        client, requests = self._asked(request, WRITE)
        key = _idempotency_key(request)
        with self._one_more():
            body = await self._body(request, drafts.MAX_BODY_BYTES)
            drafted = await requests.draft(drafts.read(body), client, key)
        return _answer(view(drafted), drafted.version, 201, Location=f"/v1/requests/{drafted.request_id}")

    async def page(self, request: Request) -> Response:
        """`GET /v1/requests`."""
        client, requests = self._asked(request, READ)
        wanted, after, limit = self._filter(request, client)
        found = await requests.page(wanted, after, limit + 1)
        following = _cursor(cursor_of(found[limit - 1])) if len(found) > limit else None
        return json_response(PageView([summary(one) for one in found[:limit]], following))

    async def show(self, request: Request) -> Response:
        """`GET /v1/requests/{request_id}`."""
        client, requests = self._asked(request, READ)
        found = await requests.show(_request_id(request), client)
        return _answer(whole(*found), found.request.version)

    async def change(self, request: Request) -> Response:
        """`PATCH /v1/requests/{request_id}`."""
        client, requests = self._asked(request, WRITE)
        request_id = _request_id(request)
        versions = _versions(request)
        if versions is None:
            detail = 'Say in `If-Match` which version you change, such as "3": the ETag of the answer that you read.'
            raise Problem(428, "precondition-required", "The version is missing", detail, pointer="/header/if-match")
        with self._one_more():
            body = await self._body(request, drafts.MAX_BODY_BYTES)
            changed = await requests.change(request_id, body, client, versions)
        return _answer(view(changed), changed.version)

    async def comment(self, request: Request) -> Response:
        """`POST /v1/requests/{request_id}/comments`."""
        client, requests = self._asked(request, WRITE)
        request_id, key = _request_id(request), _idempotency_key(request)
        with self._one_more():
            text = drafts.read_comment(await self._body(request, MAX_SMALL_BODY))
            step = await requests.comment(request_id, text, client, key)
        return _answer(comment_view(step), step.version, 201)

    def command(self, command: str) -> Handler:
        """`POST /v1/requests/{request_id}/<command>`."""

        async def act(request: Request) -> Response:
            client, requests = self._asked(request, COMMANDS[command])
            request_id, versions = _request_id(request), _versions(request)
            with self._one_more():
                reason = drafts.read_remark(await self._body(request, MAX_SMALL_BODY, may_be_missing=True))
                if command == lifecycle.SUBMIT:
                    found = await requests.submit(request_id, reason, client, versions)
                else:
                    found = await requests.act(request_id, command, reason, client, versions)
            return _answer(view(found), found.version)

        return act

    def _asked(self, request: Request, scope: str) -> tuple[Principal, Requests]:
        client = self._authenticator.principal(request, scope)
        return client, self._office.open()

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        if self._calls >= _CALLS:
            raise overloaded(Overloaded())
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _body(self, request: Request, limit: int, *, may_be_missing: bool = False) -> bytes:
        head = encoded_bodies.head(request)
        if not may_be_missing or head.length:
            encoded_bodies.require(head, "application/json")
        if head.length > limit:
            raise drafts.too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._idle_seconds):
                async for data in encoded_bodies.pieces(request, head):
                    body += data
                    if len(body) > limit:
                        raise drafts.too_large(limit)
        except TimeoutError as error:
            raise encoded_bodies.too_slow(f"The body was not there within {self._idle_seconds:g} seconds.") from error
        if body and may_be_missing:
            encoded_bodies.require(head, "application/json")
        return bytes(body).removeprefix(b"\xef\xbb\xbf")

    def _filter(self, request: Request, client: Principal) -> tuple[RequestFilter, RequestCursor | None, int]:
        """What the query asks for; raises InputRejected for what does not fit, and 403 for a region of others."""
        given = query_of(request)
        faults = [
            Fault(f"/query/{name[:100]}", f"is no parameter of this call; it takes {', '.join(_FILTERS)}")
            for name in dict.fromkeys(given)
            if name not in _FILTERS
        ]
        faults += [Fault(f"/query/{n}", "is given more than once") for n in _FILTERS if len(given.getlist(n)) > 1]
        for name, known in (("state", lifecycle.STATES), ("kind", drafts.KINDS), ("region", self._regions)):
            if name in given and given[name] not in known:
                faults.append(Fault(f"/query/{name}", f"{given[name]!r:.60} is not one of {', '.join(known)}"))
        if not given.get("sponsor", "").isprintable():
            faults.append(Fault("/query/sponsor", "expected printable characters"))
        limit, after = given.get("limit", str(PAGE)), None
        if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= LARGEST_PAGE):
            faults.append(Fault("/query/limit", f"{limit!r:.60} is not a number from 1 to {LARGEST_PAGE}"))
        if "cursor" in given:
            try:
                after = _place(given["cursor"])
            except ValueError:
                faults.append(Fault("/query/cursor", "is no cursor of this list: send `next` of the page before"))
        if faults:
            raise drafts.unfit(faults)
        region = given.get("region")
        if region is not None and not client.may_act_in(region):
            detail = f"client {client.name!r} may act in {', '.join(sorted(client.regions))}, not in {region!r}"
            title = "The key may not act in this region"
            raise InputRejected(403, "region-not-allowed", title, [Fault("/query/region", detail)])
        regions = None if ANY in client.regions else sorted(client.regions)
        wanted = RequestFilter(regions, given.get("state"), given.get("kind"), given.get("sponsor"), region)
        return wanted, after, int(limit)


def _guarded(handle: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except InputRejected as refused:
            raise problem(refused) from refused
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)

    return answer


def _answer(body: msgspec.Struct, version: int, status: int = 200, **headers: str) -> Response:
    return json_response(body, status, {"ETag": f'"{version}"', **headers})


def _request_id(request: Request) -> str:
    given: str = request.path_params["request_id"]
    try:
        return str(UUID(given))
    except ValueError as error:
        detail = f"No business request {given!r:.60} is known: expected a UUID."
        raise Problem(404, "not-found", "No such business request", detail) from error


def _idempotency_key(request: Request) -> str:
    """The key that names what is made; raises a 400 Problem when it is missing, 422 when it is not a quoted string."""
    given = request.headers.get("idempotency-key")
    if given is None:
        detail = 'Send `Idempotency-Key: "<text of yours>"`: with it, the same call again makes nothing twice.'
        title, pointer = "Idempotency-Key is missing", "/header/idempotency-key"
        raise Problem(400, "idempotency-key-missing", title, detail, pointer=pointer)
    return read_idempotency_key(given)


def _versions(request: Request) -> Versions:
    """The versions that `If-Match` names, None without one (RFC 9110, section 13.1.1)."""
    given = request.headers.get("if-match")
    if given is None:
        return None
    if given.strip() == "*":
        return [ANY_VERSION]
    if _are_tags(given.strip()) is None:
        detail = f'If-Match is {given!r:.100}; expected the ETag of an answer, such as "3", or *.'
        raise Problem(422, "invalid-request", "The request does not fit", detail, pointer="/header/if-match")
    return [int(tag) for tag in _version_tags(given)]


def _cursor(place: RequestCursor) -> str:
    return base64.urlsafe_b64encode(f"{place[0].isoformat()} {place[1]}".encode()).decode()


def _place(cursor: str) -> RequestCursor:
    drafted_at, request_id = base64.b64decode(cursor.encode(), b"-_", validate=True).decode().split(" ")
    return from_text(drafted_at), str(UUID(request_id))
