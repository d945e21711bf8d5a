"""Decisions of reviewers."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Response
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from services.decision.api import rejections
from services.decision.api.dependencies import CaseId, Reviewer, Reviews
from services.decision.api.leases import LeaseBody, Text
from services.decision.api.views import DecisionView
from services.decision.domain.decisions import DecideCommand
from shared.auth.api_key import PROTECTED
from shared.http.models import example
from shared.http.route import StrictRoute

router: Final = APIRouter(prefix="/v1", route_class=StrictRoute, responses=PROTECTED)


class DecisionBody(LeaseBody):
    """A reviewer's decision: `approve` or `reject` (with a reason code) an item or a notice, `uphold` or `overturn` an
    appeal."""

    action: Literal["approve", "reject", "uphold", "overturn"]
    reasons: list[Annotated[str, Field(pattern="^[A-Z0-9_]{1,64}$")]] = Field(
        default=[], max_length=20, validate_default=True
    )
    note: Annotated[Text, Field(max_length=5000)] = ""

    model_config = example({"lease_token": 1, "action": "reject", "reasons": ["COUNTERFEIT"], "note": ""})

    @field_validator("reasons")
    @classmethod
    def _require_reason_of_reject(cls, reasons: list[str], info: ValidationInfo) -> list[str]:
        if info.data.get("action") == "reject" and not reasons:
            raise PydanticCustomError("missing", "a reject needs at least one reason code")
        return reasons


@router.post(
    "/cases/{case_id}/decisions",
    status_code=201,
    summary="Decide a claimed case",
    responses=rejections.OF_DECISION | {200: {"model": DecisionView, "description": "The decision of an earlier call"}},
)
async def decide(
    _: Reviewer, reviews: Reviews, case_id: CaseId, body: DecisionBody, response: Response
) -> DecisionView:
    command = DecideCommand(body.lease_token, body.action, body.reasons, body.note, body.reviewer)
    outcome = await reviews.decisions.decide(str(case_id), command)
    if outcome is None:
        raise rejections.unknown_case(case_id)
    if not outcome.is_new:
        response.status_code = 200
    return DecisionView.model_validate(outcome.decision)
