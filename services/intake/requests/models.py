"""The REST models of business requests' bodies."""

from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import Field, create_model

from services.intake.requests.domain.drafts import (
    CAPACITY,
    CONTROL_CHARACTERS,
    LINE_BREAKS,
    MAX_RATIONALE,
    MAX_REMARK,
    MAX_TITLE,
    DraftKind,
)
from shared.contracts.events import ProposedChange
from shared.http.documents import DocumentBody
from shared.http.models import EmbeddedInput, example

_REASON: Final = {"reason": "Shown to work on last week's items."}


def _pattern(regex: str) -> dict[str, Any]:
    return {"json_schema_extra": {"pattern": regex}}


_NOT_BLANK: Final = rf"^[^{CONTROL_CHARACTERS}]*[^\s{CONTROL_CHARACTERS}][^{CONTROL_CHARACTERS}]*$"
_TITLE: Final = rf"^[^{LINE_BREAKS}]*[^\s{LINE_BREAKS}][^{LINE_BREAKS}]*$"
_ONE_LINE: Final = _pattern(f"^[^{LINE_BREAKS}]*$")
Remark: TypeAlias = Annotated[str, Field(max_length=MAX_REMARK, **_pattern(f"^[^{CONTROL_CHARACTERS}]*$"))]


DRAFT_EXAMPLE: Final[dict[str, Any]] = {
    "title": "Lamps far below their price are looked at",
    "kind": "policy_change",
    "sponsor": "moderation-lead",
    "regions": ["eu"],
    "markets": ["DE", "FR"],
    "expected_items_per_day": 1200,
    "rationale": "Counterfeit lamps are sold at a tenth of the usual price.",
    "change": {
        "policy_set": {
            "policies": [
                {
                    "id": "lamps-too-cheap",
                    "title": "Lamps far below their price",
                    "when": ['category.startsWith("Home/Lighting")', "price.known && price.minor < 500"],
                    "verdict": "review",
                    "reasons": ["COUNTERFEIT"],
                    "queue": "counterfeit",
                    "priority": 3,
                    "markets": ["DE", "FR"],
                }
            ],
            "default_verdict": "approve",
        }
    },
}


class DraftBody(DocumentBody):
    """A proposal of the business."""

    title: Annotated[str, Field(min_length=1, max_length=MAX_TITLE, description="One line", **_pattern(_TITLE))]
    kind: DraftKind
    sponsor: Annotated[
        str,
        Field(
            max_length=100,
            description="The responsible person, who may not approve it",
            **_pattern(f"^[^{LINE_BREAKS}]*$"),
        ),
    ] = ""
    regions: Annotated[
        list[Annotated[str, Field(max_length=31)]],
        Field(min_length=1, max_length=50, description="The affected regions", json_schema_extra={"uniqueItems": True}),
    ]
    markets: Annotated[
        list[Annotated[str, Field(**_pattern("^[A-Z]{2}$"))]],
        Field(max_length=300, description="ISO 3166-1 alpha-2; empty means all of the regions", default_factory=list),
    ]
    expected_items_per_day: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    expected_date: Annotated[
        str, Field(description="The start, YYYY-MM-DD", **_pattern(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$"))
    ] = ""
    rationale: Annotated[str, Field(max_length=MAX_RATIONALE, **_pattern(f"^[^{CONTROL_CHARACTERS}]*$"))] = ""
    change: Annotated[
        Annotated[ProposedChange, EmbeddedInput()] | None,
        Field(description="A policy set, or complete definitions of regions in the operating model; at most 1 MiB"),
    ] = None

    placeholders: ClassVar[dict[str, Any]] = {"title": "x", "kind": CAPACITY, "regions": ["x"]}
    model_config = example(DRAFT_EXAMPLE)


class _ChangeBase(DocumentBody):
    """The fields of a draft to replace; null removes a field."""

    model_config = example({"expected_items_per_day": 1500})


_CHANGEABLE: Final[dict[str, Any]] = {
    name: (field.rebuild_annotation() | None, None) for name, field in DraftBody.model_fields.items()
}
ChangeRequestBody = create_model("ChangeRequestBody", __base__=_ChangeBase, __doc__=_ChangeBase.__doc__, **_CHANGEABLE)


class RemarkBody(DocumentBody):
    """An optional reason for a command."""

    reason: Remark = ""

    model_config = example(_REASON)


class ReasonBody(DocumentBody):
    """The reason for a command that requires one."""

    reason: Annotated[str, Field(max_length=MAX_REMARK, json_schema_extra={"minLength": 1, "pattern": _NOT_BLANK})] = ""

    model_config = example(_REASON)


class CommentBody(DocumentBody):
    """A comment on a request."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_REMARK, **_pattern(_NOT_BLANK))]

    placeholders: ClassVar[dict[str, Any]] = {"text": "x"}
    model_config = example({"text": "How many of them were wrong?"})
