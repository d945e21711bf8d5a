"""The rules of notices: the elements of DSA Art. 16(2), each with its rule.

(a) an explanation why the subject is illegal; (b) the exact locations; (c) name and e-mail of the notifier, except for
offences of Art. 3 to 7 of Directive 2011/93/EU (ground `csam`); (d) the statement of good faith. Grounds are a closed
list (`shared.contracts.grounds`).
"""

import re
from collections.abc import Iterator
from typing import Final

from services.intake.items.domain.posts import is_platform, is_url
from shared.contracts import events, ids
from shared.contracts.grounds import CATEGORIES
from shared.validation.codes import Codes
from shared.validation.faults import Fault, RejectionType
from shared.validation.identifiers import identifier_problem

INVALID_NOTICE: Final = RejectionType(
    "invalid-notice", 422, "The notice is invalid", "/reporter/email: is required, except for ground 'csam'"
)

MAX_BODY_BYTES: Final = 128 * 1024
MIN_EXPLANATION: Final = 20  # characters
MAX_EXPLANATION: Final = 10_000
CSAM: Final = "csam"

_is_email = re.compile(r"[^\s@<>()\[\],;:\"\\]+@[^\s@.]+(?:\.[^\s@.]+)+").fullmatch


class NoticePost(events.Notice, frozen=True, kw_only=True):
    """A notice as a client submits it: `NoticeBody` in `services.intake.notices.models`."""

    category: str = ""  # derived from the ground
    platform: str
    kind: str
    id: str
    reference: str


def faults(post: NoticePost, codes: Codes) -> Iterator[Fault]:
    """Every fault of a notice except its format and its markets."""
    if not is_platform(post.platform):
        yield Fault("/platform", "expected 1 to 63 of a-z, 0-9 and '-', not starting with '-'")
    yield from unprintable_faults({"/id": post.id})
    if not post.id.strip():
        yield Fault("/id", "contains only white space")
    yield from explanation_faults(post.explanation, post.language, post.reference, codes)
    yield from _location_faults(post.locations)
    if not post.good_faith:
        yield Fault("/good_faith", "expected true: a notice needs its statement of good faith")
    reporter = post.reporter
    yield from person_faults("/reporter", reporter.name, reporter.email, reporter.reference)
    for name, value in (("name", reporter.name), ("email", reporter.email)):
        if post.ground != CSAM and not value.strip():
            yield Fault(f"/reporter/{name}", f"is required, except for ground {CSAM!r}")


def person_faults(pointer: str, name: str, email: str, reference: str) -> Iterator[Fault]:
    """The faults of a person's name, e-mail and reference."""
    yield from unprintable_faults({f"{pointer}/name": name, f"{pointer}/reference": reference})
    if email and not (email.isprintable() and _is_email(email)):
        yield Fault(
            f"{pointer}/email", f"{email!r:.60} is not an e-mail address; expected for example 'ada@example.org'"
        )


def explanation_faults(explanation: str, language: str, reference: str, codes: Codes) -> Iterator[Fault]:
    """The faults of an explanation, its language, and the client's reference."""
    if len(explanation.strip()) < MIN_EXPLANATION:
        yield Fault("/explanation", f"expected at least {MIN_EXPLANATION} characters, without white space at the ends")
    if language != "und" and not codes.is_language(language):
        yield Fault("/language", f"{language!r:.60} is not a BCP 47 tag; expected for example 'de' or 'pt-BR'")
    if (problem := identifier_problem(reference)) is not None:
        yield Fault("/reference", problem)


def unprintable_faults(texts: dict[str, str]) -> Iterator[Fault]:
    """A fault for each text (by pointer) with characters that are not printable."""
    for pointer, text in texts.items():
        if not text.isprintable():
            yield Fault(pointer, "expected printable characters only")


def content(post: NoticePost) -> events.Notice:
    """The content of the event."""
    fields = {name: getattr(post, name) for name in events.Notice.__struct_fields__}
    return events.Notice(**fields | {"category": CATEGORIES[post.ground]})


def content_hash(notice: events.Notice) -> str:
    """The hash that distinguishes the retry of a notice from another notice under the same reference."""
    return ids.struct_hash(notice, always={"language"})


def _location_faults(locations: list[str]) -> Iterator[Fault]:
    for index, url in enumerate(locations):
        if not is_url(url):
            yield Fault(f"/locations/{index}", f"{url!r:.60} is not an http:// or https:// address")
        elif url in locations[:index]:
            yield Fault(f"/locations/{index}", "is repeated")
