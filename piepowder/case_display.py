"""A case as a reviewer sees it: everything that the decision depends on, in words.

Texts of items, notices and appeals are untrusted: they are shown without control characters. The phrases that word
lists found are marked in title and text. On the screen, a long text is cut, with the number of lines that are missing;
the key `v` shows the whole case in a pager.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import regex
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from piepowder import console_output
from shared.contracts.envelope import subject_of
from shared.contracts.events import Policy
from shared.runtime.clock import from_text

EARLIER_SHOWN: Final = 10  # decided cases of the subject
_LONGEST: Final = 10**9  # characters: nothing is cut
_MARK: Final = "reverse"
_NOT_DISPLAYED: Final = regex.compile(r"\p{Default_Ignorable_Code_Point}")
_QUOTED: Final = re.compile(r"""(["'])(.*?)\1""")
_OPPOSITE: Final = {"approve": "reject", "reject": "approve"}


class Rules(msgspec.Struct, frozen=True):
    """The policies in force by id, and the id of their set; empty if the reviewer's key may not read them."""

    policy_set: str = ""
    policies: Mapping[str, Policy] = {}


class DecidedCases(msgspec.Struct, frozen=True):
    """The latest decided cases of a subject, as `GET /v1/decisions` returns them; `problem` is the reason why they are
    not known."""

    cases: Sequence[Mapping[str, Any]] = ()
    has_more: bool = False
    problem: str = ""


def item_case(case: Mapping[str, Any]) -> Mapping[str, Any]:
    """The case with the item: for a notice or an appeal, the item's case that it concerns, if that is known."""
    if case.get("case_type", "item") == "item":
        return case
    return next((one for one in case.get("concerns") or [] if one["case_type"] == "item"), case)


def contested_decision(case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The decision that an appeal contests; None for other cases."""
    contested: Mapping[str, Any] | None = (case.get("appeal") or {}).get("decision")
    return contested


def notice_of(case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The notice of the case or, for an appeal, of a case that it concerns; None if there is none."""
    notices = (case.get("notice"), *(one.get("notice") for one in case.get("concerns") or []))
    return next(filter(None, notices), None)


def rejects(case: Mapping[str, Any], action: str) -> bool:
    """True if the action restricts the item, so that it needs a reason: a rejection, or an overturned approval."""
    contested = contested_decision(case)
    return action == "reject" or (action == "overturn" and contested is not None and contested["action"] == "approve")


def subject(case: Mapping[str, Any]) -> str:
    """The subject of a case, as text for a terminal."""
    return console_output.clean(subject_of(case["platform"], case["kind"], case["subject_id"]), 300)


def effect(case: Mapping[str, Any], action: str) -> str:
    """The effect of an action on the item, in words."""
    kind, contested = case.get("case_type", "item"), contested_decision(case)
    if kind == "notice":
        return "the item stays as it is" if action == "approve" else "the marketplace is told to restrict the item"
    if contested is None:
        return f"the marketplace is told {'that it may offer' if action == 'approve' else 'to restrict'} the item"
    present = str(contested["action"])
    if action == "uphold":
        stays = "stays restricted" if present == "reject" else "stays as it is"
        return f"the appeal fails: the decision to {contested_act(case)} stays, and the item {stays}"
    told = "that the item is not restricted any more" if present == "reject" else "to restrict the item"
    opposite = _OPPOSITE.get(present, "the opposite")
    return (
        f"the appeal succeeds: the decision to {contested_act(case)} is replaced by {opposite},"
        f" and the marketplace is told {told}"
    )


def contested_act(case: Mapping[str, Any]) -> str:
    """The action of the decision that an appeal contests, in words: `reject the item`, `follow the notice`."""
    contested = contested_decision(case) or {}
    if contested.get("case_type") == "notice":
        return "follow the notice" if contested["action"] == "reject" else "dismiss the notice"
    return f"{contested['action']} the item"


def case_display(
    case: Mapping[str, Any], rules: Rules, earlier: DecidedCases, now: datetime, *, lines: int | None = None
) -> RenderableType:
    """The case for the terminal. Each text is cut to `lines` lines (None: nothing is cut)."""
    item, trace = item_case(case).get("item") or {}, item_case(case).get("trace") or {}
    hits = trace.get("hits") or []
    price = item.get("price")
    version = item_case(case).get("version")
    shown: dict[str, object] = {
        "case": case.get("case_type", "item") + ("" if version is None else f", version {version} of the item"),
        **complaint(case),
        "subject": subject(case),
        "title": _marked(item.get("title", ""), hits, "title", style="bold"),
        "text": _marked(item.get("text", ""), hits, "text"),
        "brand": item.get("brand"),
        "category": item.get("category"),
        "GTIN": item.get("gtin"),
        "price": console_output.price(price),
        "markets": ", ".join(item.get("markets") or []),
        "item's language": item.get("language"),
        "media": "\n".join(item.get("media") or []),
        "attributes": "\n".join(f"{name}: {value}" for name, value in (item.get("attributes") or {}).items()),
        "seller": _named(item.get("seller")),
        "trader": _named(item.get("trader")),
        "author": _named(item.get("author")),
        "links": "\n".join(item.get("links") or []),
        "scores": ", ".join(f"{name} {value}" for name, value in (item.get("scores") or {}).items()),
        "why": "\n".join(_why(trace, rules, item)),
        "failed": "\n".join(f"{name}: {why}" for name, why in (trace.get("errors") or {}).items()),
        "proposed": ", ".join(case.get("reasons") or []),
        "earlier": "\n".join(_earlier(case, earlier)),
        "due": due_in(str(case.get("due_at")), now),
    }
    kept = dict[str, object]()
    for name, value in shown.items():
        text = value if isinstance(value, Text) else Text("\n".join(_clean_lines(str(value or ""))))
        if text:
            kept[name] = _cut(text, lines)
    head = Rule(Text(console_output.clean(f"{case.get('queue')}  {case.get('case_id')}", 300)), align="left")
    return Group(head, console_output.fields(kept))


def complaint(case: Mapping[str, Any]) -> dict[str, object]:
    """The texts of a notice or an appeal."""
    shown: dict[str, object] = {}
    if appeal := case.get("appeal"):
        contested = appeal["decision"]
        shown |= {
            "appeal by": _person(appeal["appellant"]),
            "against": f"{_decision(contested, contested)}, on the {contested.get('case_type', 'item')}",
            **_language("appeal", appeal),
            "appeal": _bold(appeal["explanation"]),
        }
    if notice := notice_of(case):
        shown |= {
            "notice by": _person(notice["reporter"]),
            "ground": notice["ground"],
            **_language("notice", notice),
            "notice": _bold(notice["explanation"]),
            "where": "\n".join(notice["locations"]),
        }
    return shown


def _language(what: str, complaint_of: Mapping[str, Any]) -> dict[str, object]:
    language = complaint_of.get("language")
    return {f"{what}'s language": language} if language else {}


def due_in(due_at: str, now: datetime) -> str:
    """The time until `due_at` (RFC 3339) as text."""
    minutes = int((from_text(due_at) - now).total_seconds() // 60)
    size = f"{abs(minutes) // 60} h {abs(minutes) % 60} min" if abs(minutes) >= 60 else f"{abs(minutes)} min"
    return f"in {size}" if minutes >= 0 else f"{size} ago: OVERDUE"


def joined(conditions: Sequence[str]) -> str:
    """Conditions that all must hold; each in brackets, so that an `||` inside one is not read across them."""
    return conditions[0] if len(conditions) == 1 else " and ".join(f"({condition})" for condition in conditions)


def _why(trace: Mapping[str, Any], rules: Rules, item: Mapping[str, Any]) -> Iterable[str]:
    """Lines for each policy that matched: its title, its conditions, and the terms that it found."""
    matched, terms = trace.get("matched") or [], dict(trace.get("terms") or {})
    written = _written(trace.get("hits") or [], item)
    is_in_force = bool(rules.policy_set) and trace.get("policy_set") == rules.policy_set
    explained: set[str] = set()
    for name in matched:
        policy = rules.policies.get(name) if is_in_force else None
        if policy is None:
            yield name
            continue
        lists = {found[2] for condition in policy.when for found in _QUOTED.finditer(condition)}
        own = {found: term for found, term in terms.items() if found in lists}
        explained |= own.keys()
        yield f"{name}: {policy.title}" if policy.title else name
        yield f"  if {joined(policy.when)}"
        if own:
            yield f"  found {_terms(own, written)}"
    if not matched:
        yield "no policy matched"
    if others := {found: term for found, term in terms.items() if found not in explained}:
        yield f"found {_terms(others, written)}"
    if matched and rules.policy_set and not is_in_force:
        why = f"because {rules.policy_set} is in force"
        yield f"(policy set {trace.get('policy_set')}; its conditions are not shown, {why})"


def _terms(terms: Mapping[str, str], written: Mapping[tuple[str, str], str]) -> str:
    return ", ".join(f"“{term}” ({name}){written.get((name, term), '')}" for name, term in terms.items())


def _written(hits: Sequence[Mapping[str, Any]], item: Mapping[str, Any]) -> Mapping[tuple[str, str], str]:
    """The spelling of a phrase in the item, by list and phrase, if it differs from the phrase. Characters that are not
    displayed are replaced by their numbers."""
    found: dict[tuple[str, str], str] = {}
    for hit in hits:
        part = str(item.get(hit["field"], ""))[hit["start"] : hit["end"]]
        if part and part.casefold() != hit["phrase"].casefold():
            shown = _NOT_DISPLAYED.sub(lambda one: f"[U+{ord(one[0]):04X}]", part)
            found.setdefault((hit["list"], hit["phrase"]), f", written “{console_output.clean(shown, 80)}”")
    return found


def _marked(text: str, hits: Sequence[Mapping[str, Any]], field: str, style: str = "") -> Text:
    """A text of an item, with the phrases that were found in reverse colours."""
    shown = Text(style=style)
    marks = [(hit["start"], hit["end"]) for hit in hits if hit["field"] == field]
    start = 0
    for line in text.splitlines(keepends=True):
        at = len(shown)
        kept = line.splitlines()[0] if line else ""
        shown.append(console_output.clean(kept, _LONGEST))
        for first, end in marks:
            if first < start + len(kept) and end > start:
                shown.stylize(_MARK, at + max(first - start, 0), at + min(end - start, len(kept)))
        shown.append("\n")
        start += len(line)
    shown.right_crop(1)
    return shown


def _earlier(case: Mapping[str, Any], earlier: DecidedCases) -> Iterable[str]:
    """A line for each earlier decision on the subject, the latest first."""
    cases = list(earlier.cases)
    if earlier.problem:
        yield f"not all are known: {earlier.problem}"
        cases = list(case.get("concerns") or [])
    made = [(decision, one) for one in cases for decision in one.get("decisions") or []]
    for decision, one in sorted(made, key=lambda pair: str(pair[0]["decided_at"]), reverse=True):
        yield _decision(decision, one)
    if earlier.has_more:
        yield "and older ones: GET /v1/decisions lists all"
    if not made and not earlier.problem:
        yield "none: this is the first decision on the subject here"


def _decision(decision: Mapping[str, Any], case: Mapping[str, Any]) -> str:
    """A decision as a line: time, case, action, reasons, author and note."""
    kind, version = case.get("case_type", "item"), case.get("version")
    about = kind if version is None else f"{kind} version {version}"
    reasons = f" for {', '.join(decision['reasons'])}" if decision.get("reasons") else ""
    team = f" ({decision['team']})" if decision.get("team") else ""
    by = "a policy" if decision.get("automated") else f"{decision.get('reviewer') or 'a reviewer'}{team}"
    note = f", note: {decision['note']}" if decision.get("note") else ""
    return f"{decision['decided_at']} {about}: {decision['action']}{reasons}, by {by}{note}"


def _person(person: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (person["kind"], person.get("name"), person.get("reference"))))


def _named(values: Mapping[str, Any] | None) -> str:
    """The fields of an object that are known."""
    known = ((name.replace("_", " "), value) for name, value in (values or {}).items() if value not in (None, ""))
    return ", ".join(f"{name} {value}" for name, value in known)


def _bold(text: str) -> Text:
    return Text("\n".join(_clean_lines(text)), style="bold")


def _clean_lines(text: str) -> list[str]:
    return [console_output.clean(line, _LONGEST) for line in text.splitlines()]


def _cut(text: Text, lines: int | None) -> Text:
    """The first lines of a text on this screen, with the number of lines that are left out."""
    if lines is None:
        return text
    console = console_output.console
    wrapped = text.wrap(console, max(20, console.width - 16))
    if len(wrapped) <= lines:
        return text
    shown = Text("\n").join(wrapped[:lines])
    shown.append(f"\n… {len(wrapped) - lines:,} more lines: v shows the whole case", style="yellow")
    return shown
