"""The REST model of a submitted item. It documents `POST /v1/items` and the lines of a batch, which msgspec decodes."""

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field

from services.intake.items.domain.posts import MAX_CATEGORY_LEVELS, MAX_VERSION
from shared.auth.clients import PLATFORM
from shared.http.models import Body, example

MAX_INTEGER: Final = 2**63 - 1


def pattern(regex: str) -> Any:
    """Documents a pattern that the domain checks."""
    return Field(json_schema_extra={"pattern": regex})


Short: TypeAlias = Annotated[str, Field(max_length=200)]
Name: TypeAlias = Annotated[str, Field(max_length=500)]
Label: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
SubjectId: TypeAlias = Annotated[
    str,
    Field(
        min_length=1, max_length=200, description="Printable characters in Unicode form NFC, without spaces at the ends"
    ),
]
Platform: TypeAlias = Annotated[
    str, Field(description="The marketplace", json_schema_extra={"pattern": f"^{PLATFORM}$"})
]
Kind: TypeAlias = Literal["product", "seller", "content"]
Markets: TypeAlias = Annotated[
    list[Annotated[str, pattern("^[A-Z]{2}$")]],
    Field(min_length=1, max_length=50, description="ISO 3166-1 alpha-2", json_schema_extra={"uniqueItems": True}),
]
WebAddress: TypeAlias = Annotated[
    str, Field(max_length=2_048, json_schema_extra={"pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"})
]
Country: TypeAlias = Annotated[
    str, Field(description="ISO 3166-1 alpha-2", json_schema_extra={"pattern": "^([A-Z]{2})?$"})
]


class PriceBody(Body):
    """A price in minor units (cents) of an ISO 4217 currency: 12.65 EUR is 1265."""

    amount_minor: Count
    currency: Annotated[str, pattern("^[A-Z]{3}$")]


class SellerBody(Body):
    """The seller of the item."""

    id: SubjectId
    name: Name = ""
    country: Country = ""
    age_days: Count | None = None
    listings: Count | None = None
    rejected: Count | None = None
    rating: Annotated[float, Field(ge=0, allow_inf_nan=False, description="On the platform's own scale")] | None = None


class TraderBody(Body):
    """The trader behind a seller, with the data of DSA Art. 30(1); policies decide whether the data is sufficient."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    address: Annotated[str, Field(max_length=1_000)] = ""
    country: Country = ""
    register_: Annotated[Short, Field(alias="register", description="The trade register")] = ""
    register_number: Annotated[Short, Field(description="The entry in the trade register")] = ""
    email: Annotated[str, Field(max_length=320)] = ""
    phone: Annotated[str, Field(max_length=40, description="Digits, spaces and ( ) . / - after an optional +")] = ""
    self_certification: Annotated[
        bool, Field(description="Whether the trader committed to offer only products that comply with Union law")
    ] = False


class AuthorBody(Body):
    """The author of the content; `id` is the platform's id."""

    id: SubjectId
    name: Name = ""


class ItemBody(Body):
    """One version of a subject. Without `version`, the hash of the content is the version.

    `brand`, `gtin` and `price` belong to products, `trader` to sellers, `author` and `links` to content.
    """

    platform: Platform
    kind: Kind
    id: SubjectId
    version: (
        Annotated[int, Field(ge=1, le=MAX_VERSION, description="Increases with each change; gaps are allowed")] | None
    ) = None
    reference: Annotated[Short, Field(description="The client's own id; returned unchanged")] = ""
    markets: Markets
    language: Annotated[str, Field(description="BCP 47")] = "und"
    title: Annotated[str, Field(max_length=1_000)] = ""
    text: Annotated[str, Field(max_length=50_000)] = ""
    category: Annotated[Name, Field(description=f"A path with `/` and at most {MAX_CATEGORY_LEVELS} levels")] = ""
    brand: Name = ""
    gtin: Annotated[
        str, Field(description="With its check digit", json_schema_extra={"pattern": "^([0-9]{8}|[0-9]{12,14})?$"})
    ] = ""
    attributes: Annotated[
        dict[Label, Annotated[str, Field(max_length=5_000)]], Field(max_length=200, default_factory=dict)
    ]
    media: Annotated[list[WebAddress], Field(max_length=100, default_factory=list)]
    price: PriceBody | None = None
    seller: SellerBody | None = None
    scores: Annotated[
        dict[Label, Annotated[float, Field(ge=0, le=1)]],
        Field(max_length=100, description="Scores of the client's own classifiers", default_factory=dict),
    ]
    trader: TraderBody | None = None
    author: AuthorBody | None = None
    links: Annotated[
        list[Annotated[str, pattern(f"^{PLATFORM}:(product|seller|content):")]],
        Field(
            max_length=100, description="The subjects that it refers to, `<platform>:<kind>:<id>`", default_factory=list
        ),
    ]

    model_config = example("""{
        "platform": "shop", "kind": "product", "id": "B000051ZOA", "version": 1, "reference": "import-2026-05-01",
        "markets": ["DE", "FR"], "language": "de", "title": "Koss EQ50 Stereo-Equalizer",
        "text": "Drei Bänder, mit Clip.", "category": "Elektronik/Audio", "brand": "Koss", "gtin": "4006381333931",
        "attributes": {"color": "black"}, "media": ["https://img.example/eq50.jpg"],
        "price": {"amount_minor": 1265, "currency": "EUR"}, "scores": {"counterfeit": 0.02},
        "seller": {"id": "s-17", "name": "Audio GmbH", "country": "DE", "age_days": 900, "listings": 120, "rejected": 1}
    }""")
