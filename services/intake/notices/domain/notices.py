"""What a notice must say: the elements of DSA Art. 16(2), each with its rule.

(a) why the subject is illegal, at some length; (b) where exactly it is; (c) the name and e-mail of who reports it, but
for the offences of Art. 3 to 7 of Directive 2011/93/EU (ground `csam`); (d) that this is said in good faith. Grounds
are a closed list of ours; each has its category in the DSA's transparency database, so that a statement of reasons
needs no other table.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from services.intake.domain.documents import Form
from services.intake.domain.faults import Fault
from services.intake.domain.posts import Codes, Refused, SubjectId, is_platform, is_url
from shared.auth.clients import PLATFORM
from shared.contracts import envelope, events, ids

MAX_BODY_BYTES: Final = 128 * 1024
LEAST_SAID: Final = 20  # characters of an explanation
MOST_SAID: Final = 10_000
CSAM: Final = "csam"

Ground = Literal[
    "animal_welfare",
    "consumer_information",
    "copyright",
    "counterfeit",
    "csam",
    "cyber_violence",
    "cyber_violence_against_women",
    "data_protection",
    "defamation",
    "elections",
    "fraud",
    "hate_speech",
    "intellectual_property",
    "other",
    "prohibited_product",
    "protection_of_minors",
    "public_security",
    "self_harm",
    "terms",
    "unsafe_product",
    "violence",
]
GROUNDS: Final[tuple[str, ...]] = get_args(Ground)
CATEGORIES: Final = {
    "animal_welfare": "STATEMENT_CATEGORY_ANIMAL_WELFARE",
    "consumer_information": "STATEMENT_CATEGORY_CONSUMER_INFORMATION",
    "copyright": "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "counterfeit": "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "csam": "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "cyber_violence": "STATEMENT_CATEGORY_CYBER_VIOLENCE",
    "cyber_violence_against_women": "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN",
    "data_protection": "STATEMENT_CATEGORY_DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
    "defamation": "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "elections": "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
    "fraud": "STATEMENT_CATEGORY_SCAMS_AND_FRAUD",
    "hate_speech": "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "intellectual_property": "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "other": "STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE",
    "prohibited_product": "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "protection_of_minors": "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "public_security": "STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY",
    "self_harm": "STATEMENT_CATEGORY_SELF_HARM",
    "terms": "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
    "unsafe_product": "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "violence": "STATEMENT_CATEGORY_VIOLENCE",
}

Name = Annotated[str, Meta(max_length=200)]
Email = Annotated[str, Meta(max_length=254, description="RFC 5321")]
Own = Annotated[str, Meta(max_length=200, description="What they call it themselves")]
Explanation = Annotated[
    str, Meta(min_length=LEAST_SAID, max_length=MOST_SAID, description="Why; white space at its ends does not count")
]
Language = Annotated[str, Meta(description="Of the explanation; BCP 47")]
Reference = Annotated[
    str, Meta(min_length=1, max_length=200, description="The client's own name for it: the same again is the same")
]

_is_email = re.compile(r"[^\s@<>()\[\],;:\"\\]+@[^\s@.]+(?:\.[^\s@.]+)+").fullmatch


class Reporter(events.Reporter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who reports the subject."""

    kind: Literal["user", "trusted_flagger", "authority"]
    name: Name = ""
    email: Email = ""
    reference: Own = ""


class NoticePost(events.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A notice, as it is posted: somebody reports a subject in some markets."""

    platform: Annotated[str, Meta(description="The marketplace", extra_json_schema={"pattern": f"^{PLATFORM}$"})]
    kind: Literal["product", "seller", "content"]
    id: SubjectId
    markets: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Z]{2}$"})]],
        Meta(min_length=1, max_length=50, description="ISO 3166-1 alpha-2", extra_json_schema={"uniqueItems": True}),
    ]
    reporter: Annotated[Reporter, Meta(description="With name and e-mail, but for ground `csam`")]
    ground: Ground
    explanation: Explanation
    locations: Annotated[
        list[Annotated[str, Meta(max_length=2_048, extra_json_schema={"pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"})]],
        Meta(min_length=1, max_length=20, description="Where exactly it is", extra_json_schema={"uniqueItems": True}),
    ]
    good_faith: Annotated[
        bool,
        Meta(
            description="True: who reports it believes, in good faith, that what they say is accurate and complete",
            extra_json_schema={"const": True},
        ),
    ]
    language: Language = "und"
    reference: Reference


FORM: Final = Form(
    NoticePost,
    platform="x",
    kind="product",
    id="x",
    markets=["XX"],
    reporter={"kind": "user"},
    ground="other",
    explanation="x" * LEAST_SAID,
    locations=["https://x"],
    good_faith=True,
    reference="x",
)


def faults(post: NoticePost, codes: Codes) -> Iterator[Fault]:
    """Every fault of a notice's meaning but those of its markets."""
    if not is_platform(post.platform):
        yield Fault("/platform", "expected 1 to 63 of a-z, 0-9 and '-', not starting with '-'")
    yield from unprintable({"/id": post.id})
    yield from said(post.explanation, post.language, post.reference, codes)
    yield from _location_faults(post.locations)
    if not post.good_faith:
        yield Fault("/good_faith", "expected true: a notice is only taken with its statement of good faith")
    reporter = post.reporter
    yield from who("/reporter", reporter.name, reporter.email, reporter.reference)
    for name, value in (("name", reporter.name), ("email", reporter.email)):
        if post.ground != CSAM and not value.strip():
            yield Fault(f"/reporter/{name}", f"is required, but for ground {CSAM!r}")


def who(pointer: str, name: str, email: str, reference: str) -> Iterator[Fault]:
    """What is wrong with how somebody is named."""
    yield from unprintable({f"{pointer}/name": name, f"{pointer}/reference": reference})
    if email and not (email.isprintable() and _is_email(email)):
        yield Fault(f"{pointer}/email", f"{email!r:.60} is no e-mail address; expected such as 'ada@example.org'")


def said(explanation: str, language: str, reference: str, codes: Codes) -> Iterator[Fault]:
    """What is wrong with an explanation, its language, or the client's reference."""
    if len(explanation.strip()) < LEAST_SAID:
        yield Fault("/explanation", f"expected at least {LEAST_SAID} characters besides white space at its ends")
    if language != "und" and not codes.is_language(language):
        yield Fault("/language", f"{language!r:.60} is no BCP 47 tag; expected such as 'de' or 'pt-BR'")
    yield from unprintable({"/reference": reference})
    if reference and not reference.strip():
        yield Fault("/reference", "there is nothing in it but space")


def unprintable(texts: dict[str, str]) -> Iterator[Fault]:
    """Those of the texts, by their pointers, that hold more than printable characters."""
    for pointer, text in texts.items():
        if not text.isprintable():
            yield Fault(pointer, "expected printable characters only")


def content(post: NoticePost) -> events.Notice:
    """What is told of a notice."""
    reporter = post.reporter
    return events.Notice(
        markets=post.markets,
        ground=post.ground,
        category=CATEGORIES[post.ground],
        explanation=post.explanation,
        locations=post.locations,
        language=post.language,
        good_faith=post.good_faith,
        reporter=events.Reporter(
            kind=reporter.kind, name=reporter.name, email=reporter.email, reference=reporter.reference
        ),
    )


def content_hash(notice: events.Notice) -> str:
    """The hash that distinguishes the retry of a notice from another notice under the same reference."""
    return ids.struct_hash(notice, always={"language"})


def subject_of(post: NoticePost) -> str:
    """What a notice is about."""
    return envelope.subject_of(post.platform, post.kind, post.id)


def invalid(found: list[Fault]) -> Refused:
    """422: it is JSON, and does not fit."""
    return Refused(422, "invalid-notice", "The notice does not fit", found)


def too_large() -> Refused:
    """413: more bytes than a notice or an appeal may have."""
    detail = f"the body has more than {MAX_BODY_BYTES // 1024} KiB, the most that is taken here"
    return Refused(413, "too-large", "The body is too large", [Fault("", detail)])


def _location_faults(locations: list[str]) -> Iterator[Fault]:
    for index, url in enumerate(locations):
        if not is_url(url):
            yield Fault(f"/locations/{index}", f"{url!r:.60} is no http:// or https:// address")
        elif url in locations[:index]:
            yield Fault(f"/locations/{index}", "is named twice")
