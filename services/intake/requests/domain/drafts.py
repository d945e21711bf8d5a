"""What a business request may say, and what it must say before it is submitted.

A request comes from a person with a form or a file, so every fault is told at once, each with its JSON pointer, and
none is mended in silence. The attached change is read into the types that travel on the control topic: what is kept,
hashed and told is what those types hold, in one spelling, and whether it makes sense is the router's to say.
"""

import re
from collections.abc import Collection, Iterator
from datetime import date, timedelta
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar, get_args

import msgspec
from msgspec import Meta

from services.intake.domain import documents
from services.intake.domain.documents import Form, Reading
from services.intake.domain.faults import Fault
from services.intake.domain.posts import Refused
from shared.contracts import ids
from shared.contracts.events import BusinessRequest, ProposedChange, Struct
from shared.validation.strict_json import Object

S = TypeVar("S", bound=msgspec.Struct)

NEW_CATEGORY: Final = "new_category"
NEW_MARKET: Final = "new_market"
POLICY_CHANGE: Final = "policy_change"
QUEUE_CHANGE: Final = "queue_change"
SERVICE_LEVEL_CHANGE: Final = "service_level_change"
CAPACITY: Final = "capacity"
Kind = Literal["new_category", "new_market", "policy_change", "queue_change", "service_level_change", "capacity"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)

MAX_CHANGE_BYTES: Final = 1024 * 1024
MAX_BODY_BYTES: Final = MAX_CHANGE_BYTES + 256 * 1024
MAX_TITLE: Final = 200
MAX_RATIONALE: Final = 20_000
MAX_REMARK: Final = 5_000  # a comment, a reason
_AHEAD: Final = timedelta(days=5 * 366)
_BEHIND: Final = timedelta(days=1)  # it is still today somewhere

_is_date = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch
_CONTROL: Final = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_BREAKS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_breaks = re.compile(f"[{_BREAKS}]").search
_TEXT: Final = {"pattern": f"^[^{_CONTROL}]*$"}
_SAID: Final = {"pattern": rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$"}
_LINE: Final = {"pattern": f"^[^{_BREAKS}]*$"}
_TITLE: Final = {"pattern": rf"^[^{_BREAKS}]*[^\s{_BREAKS}][^{_BREAKS}]*$"}


class Draft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the business asks for, as it is posted."""

    title: Annotated[str, Meta(min_length=1, max_length=MAX_TITLE, description="One line", extra_json_schema=_TITLE)]
    kind: Kind
    sponsor: Annotated[
        str, Meta(max_length=100, description="Who answers for it; may not approve it", extra_json_schema=_LINE)
    ] = ""
    regions: Annotated[
        list[Annotated[str, Meta(max_length=31)]],
        Meta(
            min_length=1, max_length=50, description="Whose cells it concerns", extra_json_schema={"uniqueItems": True}
        ),
    ]
    markets: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Z]{2}$"})]],
        Meta(max_length=300, description="ISO 3166-1 alpha-2; all of the regions when empty"),
    ] = msgspec.field(default_factory=list)
    expected_items_per_day: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    expected_date: Annotated[
        str,
        Meta(description="From when, YYYY-MM-DD", extra_json_schema={"pattern": r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$"}),
    ] = ""
    rationale: Annotated[str, Meta(max_length=MAX_RATIONALE, extra_json_schema=_TEXT)] = ""
    change: Annotated[
        ProposedChange | None,
        Meta(description="A policy set, or regions of the operating model as they are to be; at most 1 MiB"),
    ] = None


class Remark(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said with a step of a request's life."""

    reason: Annotated[str, Meta(max_length=MAX_REMARK, extra_json_schema=_TEXT)] = ""


class Reason(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must be said with some of them."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REMARK, extra_json_schema=_SAID)]


class Comment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody says about a request."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_REMARK, extra_json_schema=_SAID)]


class Owners(Protocol):
    """Which region owns which market; see `services.intake.domain.ownership`."""

    @property
    def open_regions(self) -> Collection[str]: ...

    def owner(self, market: str) -> str | None: ...


_DRAFT: Final = Form(Draft, title="x", kind=CAPACITY, regions=["x"])
_REMARK: Final = Form(Remark)
_COMMENT: Final = Form(Comment, text="x")


def read(text: bytes) -> Draft:
    """The draft in a JSON text; raises Refused with every fault of form."""
    return _draft(_DRAFT.read(text))


def patched(draft: Draft, text: bytes) -> Draft:
    """The draft with the members of a JSON text in place of its own, each whole; null takes one away.

    Raises Refused with every fault of form.
    """
    patch = documents.decode(text)
    if not isinstance(patch, dict):
        raise unfit([Fault("", "expected an object")])
    now: dict[str, Any] = msgspec.to_builtins(draft)
    merged = {name: value for name, value in (now | patch).items() if value is not None or name not in patch}
    return _draft(_DRAFT.of(Object(merged, patch.twice) if isinstance(patch, Object) else merged))


def read_remark(text: bytes) -> str:
    """The reason in a JSON text, which may be missing altogether; raises Refused with every fault of form."""
    if not text.strip():
        return ""
    return _sound(_REMARK.read(text)).reason.strip()


def read_comment(text: bytes) -> str:
    """The comment in a JSON text; raises Refused with every fault of form."""
    comment = _sound(_COMMENT.read(text)).text.strip()
    if not comment:
        raise unfit([Fault("/text", "there is nothing in it but space")])
    return comment


def faults(draft: Draft, owners: Owners, countries: Collection[str], today: date) -> list[Fault]:
    """What is wrong with a draft's meaning, under the operating model in force."""
    found = [
        Fault(pointer, "expected one line, without tabs")
        for pointer, text in (("/title", draft.title), ("/sponsor", draft.sponsor))
        if _breaks(text)
    ]
    if not draft.title.strip():
        found.append(Fault("/title", "there is nothing in it but space"))
    found += _region_faults(draft, owners)
    found += _market_faults(draft, owners, countries)
    found += _date_faults(draft.expected_date, today)
    found += _change_faults(draft)
    return found


def lacking(draft: Draft) -> list[Fault]:
    """What a draft must still say before it can be submitted."""
    needed = {"/sponsor": bool(draft.sponsor.strip()), "/rationale": bool(draft.rationale.strip())}
    if draft.kind in (NEW_CATEGORY, NEW_MARKET, CAPACITY):
        needed |= {
            "/expected_items_per_day": draft.expected_items_per_day is not None,
            "/expected_date": bool(draft.expected_date),
        }
    change = draft.change or ProposedChange()
    if draft.kind == POLICY_CHANGE:
        needed["/change/policy_set"] = change.policy_set is not None
    elif draft.kind in (QUEUE_CHANGE, SERVICE_LEVEL_CHANGE):
        needed["/change/operating_model_diff"] = change.operating_model_diff is not None
    return [
        Fault(pointer, f"is required before a request of kind {draft.kind!r} is submitted")
        for pointer, there in needed.items()
        if not there
    ]


def content(draft: Draft) -> BusinessRequest:
    """What is told of a draft: the whole, the change by its hash."""
    return BusinessRequest(
        title=draft.title,
        kind=draft.kind,
        sponsor=draft.sponsor,
        regions=draft.regions,
        markets=draft.markets,
        expected_items_per_day=draft.expected_items_per_day,
        expected_date=draft.expected_date,
        rationale=draft.rationale,
        change_hash="" if draft.change is None else ids.content_hash(ids.canonical(draft.change)),
    )


def whole(told: BusinessRequest, change: ProposedChange | None) -> Draft:
    """The draft that `content` was made of."""
    fields = msgspec.structs.asdict(told)
    del fields["change_hash"]
    return Draft(**fields, change=change)


def content_hash(draft: Draft) -> str:
    """The hash that distinguishes the retry of a draft from another draft with the same Idempotency-Key."""
    return ids.content_hash(ids.canonical(draft))


def unfit(found: list[Fault]) -> Refused:
    """422: it is JSON, and does not fit."""
    return Refused(422, "invalid-request", "The request does not fit", found)


def too_large(limit: int) -> Refused:
    """413: more bytes than are taken."""
    detail = f"more than {limit // 1024} KiB; an attached change may have {MAX_CHANGE_BYTES // 1024} KiB"
    return Refused(413, "too-large", "The request is too large", [Fault("", detail)])


def _draft(reading: Reading[Draft]) -> Draft:
    draft = _sound(reading)
    if draft.change is not None:
        size = len(ids.canonical(draft.change))
        if size > MAX_CHANGE_BYTES:
            detail = f"the change has {size} bytes; at most {MAX_CHANGE_BYTES} are taken"
            raise Refused(413, "too-large", "The attached change is too large", [Fault("/change", detail)])
    return draft


def _sound(reading: Reading[S]) -> S:
    if reading.faults or reading.value is None:
        raise unfit(reading.faults)
    return reading.value


def _region_faults(draft: Draft, owners: Owners) -> Iterator[Fault]:
    known = owners.open_regions
    for index, region in enumerate(draft.regions):
        if region not in known:
            yield Fault(f"/regions/{index}", f"{region!r} is no region here; known are {', '.join(sorted(known))}")
        elif region in draft.regions[:index]:
            yield Fault(f"/regions/{index}", f"region {region!r} is named twice")


def _market_faults(draft: Draft, owners: Owners, countries: Collection[str]) -> Iterator[Fault]:
    unowned = 0
    for index, market in enumerate(draft.markets):
        pointer = f"/markets/{index}"
        owner = owners.owner(market)
        if market not in countries:
            hint = f"; write {market.upper()!r}" if market.upper() in countries else ""
            yield Fault(pointer, f"{market!r:.40} is no ISO 3166-1 alpha-2 country{hint}")
        elif market in draft.markets[:index]:
            yield Fault(pointer, f"market {market!r} is named twice")
        elif owner is None:
            unowned += 1
            if draft.kind != NEW_MARKET:
                yield Fault(
                    pointer, f"no region owns market {market!r}; a request of kind {NEW_MARKET!r} may ask for it"
                )
        elif owner not in draft.regions:
            yield Fault(pointer, f"market {market!r} belongs to region {owner!r}, which is not among `regions`")
    if draft.kind == NEW_MARKET and not unowned:
        yield Fault("/markets", "name a market that no region owns yet: that is what a new market is")


def _date_faults(text: str, today: date) -> Iterator[Fault]:
    if not text:
        return
    try:
        asked = date.fromisoformat(text) if _is_date(text) else None
    except ValueError:
        asked = None
    if asked is None:
        yield Fault("/expected_date", f"{text!r:.40} is no date: expected one such as 2026-09-01")
    elif not today - _BEHIND <= asked <= today + _AHEAD:
        yield Fault("/expected_date", f"{text} is not between today, {today}, and five years from now")


def _change_faults(draft: Draft) -> Iterator[Fault]:
    change = draft.change
    if change is None:
        return
    if change.policy_set is None and change.operating_model_diff is None:
        yield Fault("/change", "expected `policy_set`, `operating_model_diff` or both")
    if change.operating_model_diff is not None:
        for index, region in enumerate(change.operating_model_diff.regions):
            if region.id not in draft.regions:
                pointer = f"/change/operating_model_diff/regions/{index}/id"
                yield Fault(pointer, f"region {region.id!r:.60} is changed, and is not among `regions`")
