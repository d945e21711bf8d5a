"""The REST API of notices and appeals.

Notices need only the operating model and Kafka. Appeals and queries also need the database.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Security
from starlette.requests import Request

from services.intake import metrics
from services.intake.errors import NOT_FOUND
from services.intake.items.api import FORBIDDEN, TheQueries
from services.intake.items.domain import status
from services.intake.items.queries import ItemQueries, not_found
from services.intake.items.views import ProjectionView
from services.intake.items.withdrawals import REGION_NOT_SERVED
from services.intake.notices import views
from services.intake.notices.domain import complaint_status
from services.intake.notices.domain.appeals import INADMISSIBLE, INVALID_APPEAL, AppealPost
from services.intake.notices.domain.complaint_status import APPEAL, NOTICE, ComplaintFacts
from services.intake.notices.domain.notices import INVALID_NOTICE, MAX_BODY_BYTES, NoticePost
from services.intake.notices.handlers import Appeals, Notices
from services.intake.notices.models import AppealBody, NoticeBody
from services.intake.notices.store import ComplaintStore
from shared.auth.api_key import PROTECTED, api_key
from shared.auth.principal import Principal
from shared.contracts.ids import uuid_of
from shared.http.documents import Document
from shared.http.encoded_bodies import ENCODED_BODY
from shared.http.measurement import CountOutcomes
from shared.http.problems import OVERLOADED, UNAVAILABLE, not_ready, problems
from shared.http.route import Available, StrictRoute


class _AvailableNotices(Available[Notices]):
    """Notices are available while an operating model is in force."""

    def of(self, request: Request) -> Notices:
        notices = super().of(request)
        if not notices.is_ready:
            raise not_ready(request.app.state.readiness)
        return notices


router: Final = APIRouter(prefix="/v1", route_class=StrictRoute, responses=PROTECTED | problems(UNAVAILABLE))
available_notices: Final = _AvailableNotices("notices")
available_appeals: Final = Available[Appeals]("appeals")
available_complaints: Final = Available[ComplaintStore]("complaints")


NoticeWriter = Annotated[Principal, Security(api_key, scopes=["notices:write"])]
NoticeReader = Annotated[Principal, Security(api_key, scopes=["notices:read"])]
AppealWriter = Annotated[Principal, Security(api_key, scopes=["appeals:write"])]
AppealReader = Annotated[Principal, Security(api_key, scopes=["appeals:read"])]
TheNotices = Annotated[Notices, Depends(available_notices)]
TheAppeals = Annotated[Appeals, Depends(available_appeals)]
TheComplaints = Annotated[ComplaintStore, Depends(available_complaints)]


@router.post(
    "/notices",
    status_code=202,
    operation_id="postNotice",
    summary="Report a subject",
    description="With the elements of DSA Art. 16(2). Returns when the topic of every region that owns one of the"
    " markets has the notice, acknowledged by all in-sync replicas. The client's `reference` identifies it: a"
    " repetition gets the same response. Other content under the same reference is accepted too, but changes nothing:"
    " the response says `conflict`. The notice becomes a case that reviewers decide; authorities and trusted"
    f" flaggers have priority. A body has at most {MAX_BODY_BYTES // 1024} KiB.",
    response_model_exclude_defaults=True,
    responses=problems(*ENCODED_BODY, *FORBIDDEN, INVALID_NOTICE, OVERLOADED),
    dependencies=[Depends(CountOutcomes(metrics.NOTICES))],
)
async def post_notice(client: NoticeWriter, notices: TheNotices, body: Document[NoticeBody]) -> views.NoticeReceiptView:
    return views.notice_receipt(await notices.submit(body.parsed(NoticePost), client))


@router.get(
    "/notices/{notice_id}",
    operation_id="getNotice",
    summary="The status of a notice by region",
    description="For the client that submitted it, in the regions of the key. The action `approve` keeps the"
    " content, `reject` restricts it. `projection` has the maximum age of the response.",
    response_model_exclude_defaults=True,
    responses=problems(NOT_FOUND),
)
async def get_notice(
    client: NoticeReader,
    queries: TheQueries,
    complaints: TheComplaints,
    notice_id: Annotated[str, Path(description="From the receipt", examples=[views.NOTICE_ID])],
) -> views.NoticeView:
    return views.notice_view(*await _find(NOTICE, notice_id, client, queries, complaints), client)


@router.post(
    "/appeals",
    status_code=202,
    operation_id="postAppeal",
    summary="Appeal against a decision",
    description="DSA Art. 20: the seller against a decision that restricts their content, the notifier against a"
    " decision that did not follow their notice. The appeal of a seller needs a client of the platform with the scope"
    " `items:write`, the appeal of a notifier the client that submitted the notice. It contests the decision in"
    " force, by its own id or by the id of its item or notice, within the appeal window that starts with the"
    " decision. Returns when the region's topic has the appeal. The client's `reference` identifies it: a repetition"
    " gets the same response. For an unknown decision the call waits for the status projection, for at most 5"
    " seconds: `404` is certain, `503` means that the state is not known yet. `409`: there is no decision yet, it was"
    " replaced, another appeal against it is open or was decided, or the reference belongs to another appeal."
    " `422` `region-not-served`: the region of the decision has left the operating model.",
    response_model_exclude_defaults=True,
    responses=problems(
        *ENCODED_BODY, *FORBIDDEN, NOT_FOUND, *INADMISSIBLE, REGION_NOT_SERVED, INVALID_APPEAL, OVERLOADED
    ),
    dependencies=[Depends(CountOutcomes(metrics.APPEALS))],
)
async def post_appeal(client: AppealWriter, appeals: TheAppeals, body: Document[AppealBody]) -> views.AppealReceiptView:
    return views.appeal_receipt(await appeals.submit(body.parsed(AppealPost), client))


@router.get(
    "/appeals/{appeal_id}",
    operation_id="getAppeal",
    summary="The status of an appeal",
    description="For the client that submitted it. The action `uphold` keeps the contested decision;"
    " `overturn` replaces it by another decision, which the item or notice shows. If the appeal was `closed` without a"
    " decision, `reason` is `replaced` (the contested decision is not in force any more) or `duplicate` (another appeal"
    " against it was open).",
    response_model_exclude_defaults=True,
    responses=problems(NOT_FOUND),
)
async def get_appeal(
    client: AppealReader,
    queries: TheQueries,
    complaints: TheComplaints,
    appeal_id: Annotated[str, Path(description="From the receipt", examples=[views.APPEAL_ID])],
) -> views.AppealView:
    return views.appeal_view(*await _find(APPEAL, appeal_id, client, queries, complaints), client)


async def _find(
    type_: str, id_text: str, client: Principal, queries: ItemQueries, complaints: ComplaintStore
) -> tuple[str, dict[str, ComplaintFacts], ProjectionView]:
    """The id of a notice or an appeal of the client, its facts by region, and the lag. Raises a 404 Problem."""
    found = uuid_of(id_text)
    handled_until = await queries.handled_until()
    facts_by_region = {} if found is None else await complaints.facts_of(type_, found)
    cases = {region: facts.case for region, facts in facts_by_region.items()}
    own = complaint_status.is_submitted_by(client.name, cases.values()) and client.may_act_for(status.platform(cases))
    seen = {region: facts for region, facts in sorted(facts_by_region.items()) if own and client.may_act_in(region)}
    lag = queries.lag(handled_until, list(seen))
    if found is None or not seen:
        raise not_found(f"{type_} {id_text!r:.60}", lag)
    return found, seen, lag
