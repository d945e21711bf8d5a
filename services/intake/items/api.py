"""The REST API of items. `services.intake.items.submission` handles the two hot paths."""

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Path, Query, Security
from pydantic import BeforeValidator, Field
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from services.intake import metrics
from services.intake.errors import NOT_FOUND, PLATFORM_NOT_ALLOWED
from services.intake.items import batch, long_poll, views
from services.intake.items.domain.posts import INVALID_ITEM, MAX_BODY_BYTES
from services.intake.items.domain.status import Status
from services.intake.items.models import ItemBody, Kind
from services.intake.items.queries import READ, READ_ALL, ItemQueries, wait_seconds
from services.intake.items.store import ItemCursor, ItemFilter
from services.intake.items.submission import NDJSON, WRITE, ItemSubmission, available_queries
from services.intake.items.withdrawals import MAX_REASON, REGION_NOT_SERVED, Withdrawals
from shared.auth.api_key import PROTECTED, api_key
from shared.auth.clients import PLATFORM
from shared.auth.principal import REGION_NOT_ALLOWED, Principal
from shared.contracts.ids import uuid_of
from shared.http import encoded_bodies
from shared.http.encoded_bodies import ENCODED_BODY
from shared.http.measurement import CountOutcomes
from shared.http.models import Printable
from shared.http.openapi import body_of, lines_of
from shared.http.problems import OVERLOADED, UNAVAILABLE, ProblemDetails, problems
from shared.http.queries import Cursor, PageLimit, decode_time_cursor
from shared.http.route import Available, StrictRoute
from shared.runtime.clock import from_text_or_none


class _ItemName(StringConvertor):
    regex = "(?!batch$)[^/]+"


register_url_convertor("item", _ItemName())


def _time(text: str) -> datetime:
    if (time := from_text_or_none(text)) is None:
        raise ValueError("expected a time such as 2026-05-01T09:30:00Z")
    return time


FORBIDDEN: Final = (REGION_NOT_ALLOWED, PLATFORM_NOT_ALLOWED)
_APPLIED: Final = {
    "Preference-Applied": {"description": "The call waited", "schema": {"type": "string"}, "example": "wait=10"}
}
_VERDICTS: Final = (
    f'{{"line":1,"status":202,"item_id":"{views.ITEM_ID}","subject":"shop:product:B000051ZOA","regions":["eu"]}}\n'
    '{"line":2,"status":422,"type":"urn:piepowder:problem:invalid-item","title":"The item is invalid",'
    '"detail":"/markets: is required","errors":[{"pointer":"/markets","detail":"is required"}]}\n'
)

router: Final = APIRouter(prefix="/v1", route_class=StrictRoute, responses=PROTECTED | problems(UNAVAILABLE))
available_submission: Final = Available[ItemSubmission]("item_submission")
available_withdrawals: Final = Available[Withdrawals]("withdrawals")

Submitter = Annotated[Principal, Security(api_key, scopes=[WRITE])]
Reader = Annotated[Principal, Security(api_key, scopes=[READ])]
Auditor = Annotated[Principal, Security(api_key, scopes=[READ_ALL])]
TheSubmission = Annotated[ItemSubmission, Depends(available_submission)]
TheQueries = Annotated[ItemQueries, Depends(available_queries)]
TheWithdrawals = Annotated[Withdrawals, Depends(available_withdrawals)]
ItemId = Annotated[
    str, Path(description="From the receipt", examples=[views.ITEM_ID], json_schema_extra={"format": "uuid"})
]
Wait = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description=f"`wait=N` (RFC 7240): return when the item has a final status in every region, after at most N"
        f" seconds (at most {long_poll.LONGEST}). A response after a wait has `Preference-Applied`",
        examples=["wait=10"],
    ),
]
RequestTime = Annotated[
    str | None,
    Header(
        alias="Request-Time",
        description="The time of the post by the client's clock (RFC 3339). Of two posts of a subject without version"
        " numbers, by the same client, the one with the later time is newer, in whatever order they arrive. Send the"
        " same time with a repetition. Without it, the post that arrives later is newer",
        examples=["2026-05-01T09:30:00.250Z"],
    ),
]
Time = Annotated[datetime, BeforeValidator(_time)]


@router.post(
    "/items",
    status_code=202,
    operation_id="postItem",
    summary="Submit one version of a subject",
    description="Returns when the topic of every region that owns one of the markets has the item, acknowledged by all"
    " in-sync replicas. A repetition gets the same response. An older version, and a used version number with other"
    " content, also get 202, but they change nothing in a region that already has the newer version or the first"
    " content; `status_url` shows this, and the response to other content says `conflict`. A newer version supersedes"
    " the older version in the regions of the newer version; in other regions the older version stays until it is"
    " withdrawn.",
    responses=problems(*ENCODED_BODY, *FORBIDDEN, INVALID_ITEM, OVERLOADED)
    | {
        202: {
            "model": views.ItemReceiptView,
            "description": "Every region has the item",
            "headers": _APPLIED,
            "links": {
                name: {"operationId": name, "parameters": {"item_id": "$response.body#/item_id"}}
                for name in ("getItem", "withdrawItem")
            },
        }
    },
    openapi_extra=body_of(
        ItemBody, f"At most {MAX_BODY_BYTES // 1024} KiB; `Content-Encoding` can be {encoded_bodies.CODINGS}"
    ),
)
async def post_item(
    _: Submitter,
    submission: TheSubmission,
    request: Request,
    prefer: Wait = None,  # noqa: ARG001 - for the documentation
    request_time: RequestTime = None,  # noqa: ARG001 - for the documentation
) -> Response:
    return await submission.post_item(request)


@router.post(
    "/items/batch",
    response_class=Response,
    operation_id="postItems",
    summary="Submit many items, one JSON object per line",
    description="Each line is a separate item: an invalid line does not affect the others. The response has one verdict"
    " for each line that is not blank, in order, and is sent while the body still arrives. A status other than `200`"
    " means that no line was accepted. After the first verdicts, the reason for the end of a call (too many lines, a"
    " truncated or slow body) is the last line: a problem without `line`. Earlier lines have their verdicts, later"
    " lines were not accepted. While Kafka does not acknowledge items of a region, their verdicts have `retry_after`. A"
    " repetition of the whole batch is always safe.",
    responses=problems(*ENCODED_BODY, batch.EMPTY, *FORBIDDEN, OVERLOADED)
    | {
        200: lines_of(
            batch.AcceptedLineView,
            batch.RejectedLineView,
            ProblemDetails,
            description="The verdicts",
            example=_VERDICTS,
        )
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": f"At most {batch.MAX_LINES} lines and {batch.MAX_BYTES >> 20} MiB, with at most"
            f" {MAX_BODY_BYTES // 1024} KiB per line; `Content-Encoding` can be {encoded_bodies.CODINGS}",
            "content": {
                NDJSON: {
                    "schema": {"type": "string", "format": "binary", "description": "An `ItemBody` per line"},
                    "example": '{"platform":"shop","kind":"product","id":"1","markets":["DE"],"title":"Lamp"}\n',
                }
            },
        }
    },
)
async def post_items(
    _: Submitter,
    submission: TheSubmission,
    request: Request,
    request_time: RequestTime = None,  # noqa: ARG001 - for the documentation
) -> Response:
    return await submission.post_batch(request)


@router.get(
    "/items",
    operation_id="listItems",
    summary="Items, newest first",
    description="Items in the regions and platforms of the key that match all conditions. A page can have fewer items"
    " than `limit`: continue while there is a `next`. An item that reached its regions at different times can be listed"
    " twice. `reference` finds only items of the calling client.",
    response_model_exclude_defaults=True,
    responses=problems(*FORBIDDEN),
)
async def list_items(
    client: Reader,
    queries: TheQueries,
    *,
    reference: Annotated[
        Annotated[Printable, Field(min_length=1, max_length=200)] | None,
        Query(description="The client's own id"),
    ] = None,
    status: Annotated[Status | None, Query(description="The status in one of the regions")] = None,
    region: Annotated[str | None, Query(description="A region of the key; by default all of them")] = None,
    platform: Annotated[str | None, Query(pattern=f"^{PLATFORM}$", description="The marketplace")] = None,
    kind: Annotated[Kind | None, Query(description="The kind of the subject")] = None,
    received_after: Annotated[Time | None, Query(description="At this time or later")] = None,
    received_before: Annotated[Time | None, Query(description="Before this time")] = None,
    limit: PageLimit = 50,
    cursor: Cursor = None,
) -> views.ItemsView:
    wanted = ItemFilter(
        [] if region is None else [region],
        reference=reference,
        status=status,
        platform=platform,
        kind=kind,
        received_after=received_after,
        received_before=received_before,
        before=item_cursor(cursor),
    )
    return await queries.page(client, wanted, limit)


@router.get(
    "/items/{item_id:item}",
    operation_id="getItem",
    summary="The status of an item by region",
    description="In the regions and platforms of the key; `projection` has the maximum age of the response.",
    response_model_exclude_defaults=True,
    responses=problems(NOT_FOUND) | {200: {"headers": _APPLIED}},
)
async def get_item(
    client: Reader,
    queries: TheQueries,
    *,
    item_id: ItemId,
    request: Request,
    response: Response,
    prefer: Wait = None,  # noqa: ARG001 - several header fields are possible
) -> views.ItemStatusView:
    seconds = wait_seconds(request.headers.getlist("prefer"))
    view, waited = await queries.item(client, item_id, seconds)
    if waited:
        response.headers["Preference-Applied"] = f"wait={seconds}"
    return view


@router.delete(
    "/items/{item_id:item}",
    status_code=202,
    operation_id="withdrawItem",
    summary="Withdraw an item in every region that it was submitted to",
    description="Returns when the topic of each region has the withdrawal, acknowledged by all in-sync replicas. Open"
    " cases are closed; a decided or superseded item keeps its status. A repetition gets the same response. The key"
    " must be valid for all of the regions, otherwise the item is not withdrawn in any. Regions that have left the"
    " operating model have no open case and are left out; `422` `region-not-served`: all of them have left, or another"
    " service serves one of them. For an unknown item the call waits for the status projection, for at most 5 seconds:"
    " `404` is certain, `503` means that the state is not known yet.",
    responses=problems(*FORBIDDEN, NOT_FOUND, REGION_NOT_SERVED, OVERLOADED),
    dependencies=[Depends(CountOutcomes(metrics.WITHDRAWALS))],
)
async def withdraw_item(
    client: Submitter,
    withdrawals: TheWithdrawals,
    item_id: ItemId,
    reason: Annotated[
        Printable,
        Query(max_length=MAX_REASON, description="Stored with the withdrawal", examples=["sold elsewhere"]),
    ] = "",
) -> views.WithdrawalReceiptView:
    if (known_form := uuid_of(item_id)) is None:
        raise NOT_FOUND.with_message(f"No item {item_id!r:.60} is known: expected a UUID.")
    return views.withdrawal_receipt(await withdrawals.withdraw(known_form, reason, client))


@router.get(
    "/subjects/{platform}/{kind}/{id:path}",
    operation_id="getSubject",
    summary="All versions of a subject with their decisions, newest first",
    description="In the regions and platforms of the key.",
    response_model_exclude_defaults=True,
    responses=problems(NOT_FOUND),
)
async def get_subject(
    client: Reader,
    queries: TheQueries,
    *,
    platform: Annotated[str, Path(description="The marketplace", examples=["shop"])],
    kind: Annotated[str, Path(description="`product`, `seller` or `content`", examples=["product"])],
    id: Annotated[str, Path(description="The platform's own id", examples=["B000051ZOA"])],  # noqa: A002 - published
    limit: PageLimit = 50,
    cursor: Cursor = None,
) -> views.SubjectVersionsView:
    return await queries.versions(client, (platform, kind, id), item_cursor(cursor), limit)


@router.get(
    "/waiting",
    operation_id="listWaiting",
    summary="Accepted notices, appeals and withdrawals without effect, oldest first",
    description="In a region: notices and appeals that have no case yet, and withdrawals of items whose case is still"
    " open. Normally each entry leaves the list within seconds; an old one shows a record that its reader has skipped"
    " (`piepowder reconcile`). Items without effect have the status `submitted` in the list of items. The list includes"
    " every platform, so it needs a key for all platforms that may read the audit log.",
    responses=problems(*FORBIDDEN),
)
async def list_waiting(
    client: Auditor,
    queries: TheQueries,
    *,
    region: Annotated[str, Query(description="A region of the key", examples=["eu"])],
    before: Annotated[Time | None, Query(description="Only entries that wait since before this time")] = None,
    limit: PageLimit = 50,
    cursor: Cursor = None,
) -> views.WaitingView:
    return await queries.waiting(client, region, before, item_cursor(cursor), limit)


@router.get(
    "/totals",
    operation_id="getTotals",
    summary="The number of items by region and status",
    description="The totals include every platform, so they need a key for all platforms.",
    responses=problems(PLATFORM_NOT_ALLOWED),
)
async def get_totals(client: Reader, queries: TheQueries) -> views.ItemTotalsView:
    return await queries.totals(client)


def item_cursor(cursor: str | None) -> ItemCursor | None:
    """The position in a list of items; raises InputRejected (422) for an invalid cursor."""
    position = decode_time_cursor(cursor)
    return None if position is None else ItemCursor(*position)
