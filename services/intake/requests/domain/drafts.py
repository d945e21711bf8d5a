"""The rules of business requests: their content, and the fields that a submission requires.

A person writes a request in a form or a file, so all faults are reported at once, each with its JSON pointer. Nothing
is corrected silently. The attached change has the types of the control topic: it is stored, hashed and published in one
spelling, and the router decides whether it is valid.
"""

import re
from collections.abc import Collection, Iterator
from datetime import date, timedelta
from typing import Final, Literal, Protocol, TypeVar, get_args

import msgspec

from shared.contracts import ids
from shared.contracts.events import BusinessRequest, ProposedChange, Struct
from shared.validation.documents import ParsedDocument
from shared.validation.faults import INVALID_REQUEST, TOO_LARGE, Fault, InputRejected

S = TypeVar("S", bound=msgspec.Struct)

NEW_CATEGORY: Final = "new_category"
NEW_MARKET: Final = "new_market"
POLICY_CHANGE: Final = "policy_change"
QUEUE_CHANGE: Final = "queue_change"
SERVICE_LEVEL_CHANGE: Final = "service_level_change"
CAPACITY: Final = "capacity"
DraftKind = Literal["new_category", "new_market", "policy_change", "queue_change", "service_level_change", "capacity"]
KINDS: Final[tuple[str, ...]] = get_args(DraftKind)

MAX_CHANGE_BYTES: Final = 1024 * 1024
MAX_BODY_BYTES: Final = MAX_CHANGE_BYTES + 256 * 1024
MAX_TITLE: Final = 200
MAX_RATIONALE: Final = 20_000
MAX_REMARK: Final = 5_000  # characters of a comment or a reason
_MAX_AHEAD: Final = timedelta(days=5 * 366)
_MAX_BEHIND: Final = timedelta(days=1)  # the date of another time zone

_is_date = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch
CONTROL_CHARACTERS: Final = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
LINE_BREAKS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_breaks = re.compile(f"[{LINE_BREAKS}]").search


class Draft(Struct, frozen=True, kw_only=True):
    """A draft as a client submits it: `DraftBody` in `services.intake.requests.models`."""

    title: str
    kind: str
    sponsor: str = ""
    regions: list[str]
    markets: list[str] = msgspec.field(default_factory=list)
    expected_items_per_day: int | None = None
    expected_date: str = ""
    rationale: str = ""
    change: ProposedChange | None = None


class MarketOwners(Protocol):
    """The owners of markets: `services.intake.items.domain.ownership`."""

    @property
    def open_regions(self) -> Collection[str]: ...
    def owner(self, market: str) -> str | None: ...


def require_valid(document: ParsedDocument[Draft]) -> Draft:
    """The draft in a document; raises InputRejected with every fault of its format, or for a change that is too
    large."""
    draft = document.value
    if document.faults or draft is None:
        raise InputRejected(INVALID_REQUEST, document.faults)
    if draft.change is not None:
        size = len(ids.canonical(draft.change))
        if size > MAX_CHANGE_BYTES:
            raise TOO_LARGE(f"the change has {size} bytes; at most {MAX_CHANGE_BYTES} are allowed", "/change")
    return draft


def require_comment(text: str) -> str:
    """A comment without white space at its ends; raises InputRejected for a blank one."""
    if not text.strip():
        raise INVALID_REQUEST("contains only white space", "/text")
    return text.strip()


def faults(draft: Draft, owners: MarketOwners, countries: Collection[str], today: date) -> list[Fault]:
    """The faults of a draft except its format, under the operating model in force."""
    found = [
        Fault(pointer, "expected one line, without tabs")
        for pointer, text in (("/title", draft.title), ("/sponsor", draft.sponsor))
        if _breaks(text)
    ]
    if not draft.title.strip():
        found.append(Fault("/title", "contains only white space"))
    found += _region_faults(draft, owners)
    found += _market_faults(draft, owners, countries)
    found += _date_faults(draft.expected_date, today)
    found += _change_faults(draft)
    return found


def missing(draft: Draft) -> list[Fault]:
    """A fault for each field that the submission of this draft requires."""
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
    """The content of the event, with the hash of the change."""
    fields = msgspec.structs.asdict(draft)
    change = fields.pop("change")
    return BusinessRequest(**fields, change_hash="" if change is None else ids.content_hash(ids.canonical(change)))


def draft_of(content: BusinessRequest, change: ProposedChange | None) -> Draft:
    """The draft of a content and its change."""
    fields = msgspec.structs.asdict(content)
    del fields["change_hash"]
    return Draft(**fields, change=change)


def content_hash(draft: Draft) -> str:
    """The hash that distinguishes the retry of a draft from another draft with the same Idempotency-Key."""
    return ids.content_hash(ids.canonical(draft))


def _region_faults(draft: Draft, owners: MarketOwners) -> Iterator[Fault]:
    open_regions = owners.open_regions
    for index, region in enumerate(draft.regions):
        if region not in open_regions:
            yield Fault(
                f"/regions/{index}", f"{region!r} is not a region; expected one of {', '.join(sorted(open_regions))}"
            )
        elif region in draft.regions[:index]:
            yield Fault(f"/regions/{index}", f"region {region!r} is repeated")


def _market_faults(draft: Draft, owners: MarketOwners, countries: Collection[str]) -> Iterator[Fault]:
    unowned = 0
    for index, market in enumerate(draft.markets):
        pointer = f"/markets/{index}"
        owner = owners.owner(market)
        if market not in countries:
            hint = f"; write {market.upper()!r}" if market.upper() in countries else ""
            yield Fault(pointer, f"{market!r:.40} is not an ISO 3166-1 alpha-2 country{hint}")
        elif market in draft.markets[:index]:
            yield Fault(pointer, f"market {market!r} is repeated")
        elif owner is None:
            unowned += 1
            if draft.kind != NEW_MARKET:
                yield Fault(
                    pointer, f"no region owns market {market!r}; a request of kind {NEW_MARKET!r} can propose it"
                )
        elif owner not in draft.regions:
            yield Fault(pointer, f"market {market!r} belongs to region {owner!r}, which is not among `regions`")
    if draft.kind == NEW_MARKET and not unowned:
        yield Fault("/markets", "expected at least one market without an owner")


def _date_faults(text: str, today: date) -> Iterator[Fault]:
    if not text:
        return
    try:
        start = date.fromisoformat(text) if _is_date(text) else None
    except ValueError:
        start = None
    if start is None:
        yield Fault("/expected_date", f"{text!r:.40} is not a date: expected for example 2026-09-01")
    elif not today - _MAX_BEHIND <= start <= today + _MAX_AHEAD:
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
                yield Fault(pointer, f"region {region.id!r:.60} is changed, but is not among `regions`")
