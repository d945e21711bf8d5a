"""The REST models of submitted notices and appeals."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import Field

from services.intake.items.models import Kind, Markets, Platform, WebAddress
from services.intake.notices.domain.notices import MAX_EXPLANATION, MIN_EXPLANATION
from shared.contracts.grounds import CATEGORIES
from shared.http.documents import DocumentBody
from shared.http.models import Body, example

if TYPE_CHECKING:
    Ground: TypeAlias = str
else:
    Ground = Literal[tuple(CATEGORIES)]
ReportedId: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=200, description="Printable characters, exactly as the item was posted")
]
PersonName: TypeAlias = Annotated[str, Field(max_length=200)]
Email: TypeAlias = Annotated[str, Field(max_length=254, description="RFC 5321")]
OwnReference: TypeAlias = Annotated[str, Field(max_length=200, description="The person's own reference")]
_REASON: Final = "The reason; white space at its ends does not count"
Explanation: TypeAlias = Annotated[
    str, Field(min_length=MIN_EXPLANATION, max_length=MAX_EXPLANATION, description=_REASON)
]
Language: TypeAlias = Annotated[str, Field(description="The language of the explanation, BCP 47")]
_OWN_ID: Final = "The client's own id; a repetition with the same reference changes nothing"
Reference: TypeAlias = Annotated[str, Field(min_length=1, max_length=200, description=_OWN_ID)]
_PLACEHOLDER_TEXT = "x" * MIN_EXPLANATION


class ReporterBody(Body):
    """The notifier."""

    kind: Literal["user", "trusted_flagger", "authority"]
    name: PersonName = ""
    email: Email = ""
    reference: OwnReference = ""


class NoticeBody(DocumentBody):
    """A notice: a report about a subject in some markets, with the elements of DSA Art. 16(2)."""

    platform: Platform
    kind: Kind
    id: ReportedId
    markets: Markets
    reporter: Annotated[ReporterBody, Field(description="Name and e-mail are required, except for ground `csam`")]
    ground: Ground
    explanation: Explanation
    locations: Annotated[
        list[WebAddress],
        Field(min_length=1, max_length=20, description="The exact locations", json_schema_extra={"uniqueItems": True}),
    ]
    good_faith: Annotated[
        bool,
        Field(
            description="Must be true: the notifier believes in good faith that the notice is accurate and complete",
            json_schema_extra={"const": True},
        ),
    ]
    language: Language = "und"
    reference: Reference

    placeholders: ClassVar[dict[str, Any]] = {
        "platform": "x",
        "kind": "product",
        "id": "x",
        "markets": ["XX"],
        "reporter": {"kind": "user"},
        "ground": "other",
        "explanation": _PLACEHOLDER_TEXT,
        "locations": ["https://x"],
        "good_faith": True,
        "reference": "x",
    }
    model_config = example("""{
        "platform": "shop", "kind": "product", "id": "B000051ZOA", "markets": ["DE"],
        "reporter": {"kind": "user", "name": "Ada Weber", "email": "ada@example.org"}, "ground": "counterfeit",
        "explanation": "Das Gerät trägt unser Zeichen, aber wir haben es nicht hergestellt.",
        "locations": ["https://shop.example/dp/B000051ZOA"], "good_faith": true, "language": "de",
        "reference": "report-4711"
    }""")


class AppellantBody(Body):
    """The appellant: the seller whose content was restricted, or the notifier whose notice was not followed."""

    kind: Literal["seller", "notifier"]
    name: PersonName = ""
    email: Email = ""
    reference: OwnReference = ""


class AppealBody(DocumentBody):
    """An appeal against one decision in a region, identified by one of three ids."""

    decision_id: Annotated[str, Field(description="The contested decision")] = ""
    item_id: Annotated[str, Field(description="Contests the decision in force on this item")] = ""
    notice_id: Annotated[str, Field(description="Contests the decision in force on this notice")] = ""
    region: Annotated[
        str,
        Field(
            max_length=31,
            description="With an item or a notice that several regions decided: the region of the decision",
        ),
    ] = ""
    appellant: AppellantBody
    explanation: Explanation
    language: Language = "und"
    reference: Reference

    placeholders: ClassVar[dict[str, Any]] = {
        "appellant": {"kind": "seller"},
        "explanation": _PLACEHOLDER_TEXT,
        "reference": "x",
    }
    model_config = example("""{
        "decision_id": "4ce3ba22-5975-5b0e-8896-1de27b443c88",
        "appellant": {"kind": "seller", "name": "Audio GmbH", "email": "recht@audio.example"},
        "explanation": "Die Rechnung des Herstellers liegt bei: das Gerät ist echt.",
        "language": "de", "reference": "complaint-12"
    }""")
