"""The timeline of a subject: its events, from cause to effect, from the audit log."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from rich.text import Text
from rich.tree import Tree

from piepowder import console_output
from piepowder.client import Api, ApiError
from shared.runtime.clock import from_text
from shared.runtime.user_errors import UserError

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def timeline(api: Api, wanted: str, regions: Sequence[str]) -> list[Tree]:
    """The events of a subject or an item, as a tree from cause to effect for each region with events."""
    subject = wanted
    if _UUID.fullmatch(wanted):
        try:
            item = await api.get("intake", f"/v1/items/{wanted}")
        except ApiError as error:
            raise UserError(f"No item {wanted} is known: {error}.", "Try again in a moment.") from error
        subject = item["subject"]
    parts = subject.split(":", 2)
    if len(parts) != 3:
        raise UserError(
            f"{wanted!r} is not a subject.", "Give an item's id, or platform:kind:id such as fair:product:p-000001."
        )
    path = f"/v1/subjects/{'/'.join(quote(part, safe='') for part in parts)}/timeline"
    trees = []
    for region in regions:
        try:
            events = await api.get_all(f"audit-{region}", path, "events", limit=1000)
        except ApiError as error:
            if error.status != 404:
                raise
            continue
        if events:
            trees.append(_tree(f"{console_output.clean(subject)}  in {region}", events))
    if not trees:
        raise UserError(
            f"There are no events about {console_output.clean(subject)}.",
            "Check the spelling, or try again in a moment.",
        )
    return trees


def _tree(title: str, events: Sequence[Mapping[str, Any]]) -> Tree:
    root = Tree(Text(title, style="bold"), guide_style="dim")
    branches: dict[str | None, Tree] = {}
    opened: set[str] = set()
    start = from_text(events[0]["time"])
    for event in events:
        after = (from_text(event["time"]) - start).total_seconds()
        name = event["type"].removeprefix("piepowder.").removesuffix(".v1")
        if name == "case.opened" and isinstance(event["data"], dict):
            case_id = str(event["data"].get("case_id"))
            if case_id in opened:
                name += " (repeated: the case existed already)"
            opened.add(case_id)
        line = Text.assemble((f"{event['time']} +{after:.3f} s  ", "dim"), (name, "bold"), f"  {_summary(event)}")
        branches[event["id"]] = branches.get(event["causation_id"], root).add(line)
    return root


def _complaint(notice: Mapping[str, Any], appeal: Mapping[str, Any]) -> str:
    """A notice or an appeal in short: its sender, its object, and the explanation."""
    if not notice and not appeal:
        return ""
    about = f"reports {notice.get('ground')}" if notice else f"appeals against {appeal['decision']['action']}"
    who = (notice.get("reporter") or appeal.get("appellant") or {}).get("kind", "somebody").replace("_", " ")
    return f"{who} {about}: “{(notice or appeal).get('explanation', '')[:120]}”"


def _summary(event: Mapping[str, Any]) -> str:
    """The fields of an event that matter to a reader."""
    data = event["data"]
    if not isinstance(data, dict):
        return console_output.clean(event.get("source", ""))
    item = data.get("item") or {}
    item_case = data.get("case_type", "item") == "item"
    parts = [
        "" if item_case else f"{data['case_type']}:",
        _complaint(data.get("notice") or {}, data.get("appeal") or {}) if "queue" not in data else "",
        f"version {data['version']}" if data.get("version") is not None and item else "",
        f"“{item['title']}”" if item.get("title") and "queue" not in data else "",
        f"{data['verdict']} →" if "verdict" in data else "",
        f"queue {data['queue']}" if "queue" in data and "action" not in data else "",
        f"due {data['due_at']}" if "verdict" in data else "",
        f"policies {', '.join(data['trace'].get('matched') or ['none'])}" if data.get("trace") and item_case else "",
        data.get("action", ""),
        f"instead of decision {data['replaces']}" if "replaces" in data else "",
        f"by {data['reviewer']} ({data.get('team')})" if data.get("reviewer") else "",
        "by policy" if data.get("automated") and not data.get("reviewer") else "",
        f"by {data['by']}" if "by" in data else "",
        str(data.get("text", "")),
        f"reasons {', '.join(data['reasons'])}" if data.get("reasons") and "action" in data else "",
        f"until {data['lease_until']}" if "lease_until" in data else "",
        f"by item {data['superseded_by']}" if "superseded_by" in data else "",
        str(data.get("reason", "")),
    ]
    return console_output.clean("  ".join(part for part in parts if part), 240)
