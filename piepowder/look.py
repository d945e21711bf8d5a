"""What a person sees of a running system: its state (`status`) and a subject's life (`timeline`)."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from deploy.local.errors import StackError
from piepowder import screen
from piepowder.client import Api, Refused
from piepowder.hints import runnable
from piepowder.observe import dead_letters
from piepowder.review import due_in
from shared.runtime.clock import SystemClock, from_text

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PATIENCE: Final = 2.0
_SILENT: Final = "does not answer"
_clock = SystemClock()


async def status(api: Api) -> tuple[list[RenderableType], bool]:
    """What to show of the whole system, and whether every service is ready.

    All are asked at once, and nobody is waited for longer than `_PATIENCE` seconds: what does not answer is shown so.
    """
    running, now = api.running, _clock.now()
    names = [service.name for service in running.services]
    ready, totals, listings, letters = await asyncio.gather(
        _ask(api, names, "/readyz"),
        _ask(api, ["intake", *(f"decision-{region}" for region in running.regions)], "/v1/totals"),
        _ask(api, [f"decision-{region}" for region in running.regions], "/v1/queues"),
        dead_letters(running.kafka, running.regions, seconds=_PATIENCE),
    )
    services = screen.table("process", "ready", "address", "pid", "log")
    lacking = {name: _SILENT if (told := ready[name]) is None else _lacking(told) for name in names}
    for service in running.services:
        state = Text(lacking[service.name], "red") if lacking[service.name] else Text("ready", "green")
        services.add_row(service.name, state, service.url, str(service.pid), screen.near(service.log))
    for server in running.servers:
        is_kafka = "Kafka" in server.name
        state = Text(_SILENT, "red") if is_kafka and letters is None else Text("")
        services.add_row(
            server.name, state, running.kafka if is_kafka else "", str(server.pid), screen.near(server.log)
        )
    queues = screen.table("region", "queue", "first due", "waiting", "claimed", "overdue", right=3)
    decided = screen.table("region", "decided by", "approved", "rejected", right=2)
    items = screen.table("region", "dead letters", "items")
    for region in running.regions:
        for queue in (listings[f"decision-{region}"] or {}).get("queues", []):
            due = queue.get("oldest_due_at")
            counts = [f"{queue[name]:,}" for name in ("waiting", "claimed", "overdue")]
            queues.add_row(region, queue["queue"], due_in(due, now) if due else "", *counts)
        for who, made in (totals[f"decision-{region}"] or {}).get("decisions", {}).items():
            decided.add_row(region, who, f"{made.get('approve', 0):,}", f"{made.get('reject', 0):,}")
        in_region = (totals["intake"] or {}).get("regions", {}).get(region)
        of_items = "?" if in_region is None else ", ".join(f"{n:,} {name}" for name, n in sorted(in_region.items()))
        items.add_row(region, "?" if letters is None else f"{letters[region]:,}", of_items or "none yet")
    lag = (totals["intake"] or {}).get("projection", {}).get("lag_seconds")
    parts: list[RenderableType] = [services, "", queues, "", decided, "", items]
    if lag is not None:
        parts.append(f"items are as of {lag:.1f} s ago")
    if unasked := [name for name, told in (totals | listings).items() if told is None]:
        parts.append(Text(f"No counts from {', '.join(unasked)}.", "red"))
    return parts, not any(lacking.values())


async def _ask(api: Api, services: Sequence[str], path: str) -> dict[str, dict[str, Any] | None]:
    """What each service says at a path; None for one that does not answer in time, or cannot."""
    answers = await asyncio.gather(*(api.attempt(name, "GET", path, timeout=_PATIENCE) for name in services))
    return {
        name: answer.json() if answer is not None and (answer.status_code == 200 or path == "/readyz") else None
        for name, (answer, _) in zip(services, answers, strict=True)
    }


def _lacking(readiness: Mapping[str, Any]) -> str:
    lacking = [f"{name}: {text}" for name, text in readiness.get("conditions", {}).items() if text != "ok"]
    return runnable("; ".join(lacking))


async def timeline(api: Api, wanted: str, regions: Sequence[str]) -> list[Tree]:
    """A subject's or an item's life, a tree from cause to effect for each region that knows it."""
    subject = wanted
    if _UUID.fullmatch(wanted):
        try:
            item = await api.get("intake", f"/v1/items/{wanted}")
        except Refused as refused:
            raise StackError(f"No item {wanted} is known: {refused}.", "Look again in a moment.") from refused
        subject = item["subject"]
    parts = subject.split(":", 2)
    if len(parts) != 3:
        raise StackError(
            f"{wanted!r} names no subject.", "Give an item's id, or platform:kind:id such as fair:product:p-000001."
        )
    path = f"/v1/subjects/{quote(parts[0], safe='')}/{quote(parts[1], safe='')}/{quote(parts[2], safe='')}/timeline"
    trees = []
    for region in regions:
        try:
            events = await _all(api, f"audit-{region}", path)
        except Refused as refused:
            if refused.status != 404:
                raise
            continue
        if events:
            trees.append(_tree(f"{screen.clean(subject)}  in {region}", events))
    if not trees:
        raise StackError(
            f"Nothing is known about {screen.clean(subject)}.", "Look at its spelling, or again in a moment."
        )
    return trees


async def _all(api: Api, service: str, path: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await api.get(service, path, limit=1000, **({} if cursor is None else {"cursor": cursor}))
        events += page["events"]
        cursor = page["next"]
        if cursor is None:
            return events


def _tree(title: str, events: Sequence[Mapping[str, Any]]) -> Tree:
    root = Tree(Text(title, style="bold"), guide_style="dim")
    branches: dict[str | None, Tree] = {}
    start = from_text(events[0]["time"])
    for event in events:
        after = (from_text(event["time"]) - start).total_seconds()
        line = Text.assemble(
            (f"{event['time']} +{after:.3f} s  ", "dim"), (_name(event["type"]), "bold"), f"  {_says(event)}"
        )
        branches[event["id"]] = branches.get(event["causation_id"], root).add(line)
    return root


def _name(event_type: str) -> str:
    return event_type.removeprefix("piepowder.").removesuffix(".v1")


def _complains(notice: Mapping[str, Any], appeal: Mapping[str, Any]) -> str:
    """Who complains, of what, in whose words."""
    if not notice and not appeal:
        return ""
    about = f"reports {notice.get('ground')}" if notice else f"appeals against {appeal['decision']['action']}"
    who = (notice.get("reporter") or appeal.get("appellant") or {}).get("kind", "somebody").replace("_", " ")
    return f"{who} {about}: “{(notice or appeal).get('explanation', '')[:120]}”"


def _says(event: Mapping[str, Any]) -> str:
    """The few fields of an event that tell what happened."""
    data = event["data"]
    if not isinstance(data, dict):
        return screen.clean(event.get("source", ""))
    item = data.get("item") or {}
    item_case = data.get("case_type", "item") == "item"
    told = [
        "" if item_case else f"{data['case_type']}:",
        _complains(data.get("notice") or {}, data.get("appeal") or {}) if "queue" not in data else "",
        f"version {data['version']}" if data.get("version") is not None and item else "",
        f"“{item['title']}”" if item.get("title") and "queue" not in data else "",
        f"{data['verdict']} →" if "verdict" in data else "",
        f"queue {data['queue']}" if "queue" in data and "action" not in data else "",
        f"due {data['due_at']}" if "verdict" in data else "",
        f"policies {', '.join(data['trace'].get('matched') or ['none'])}" if data.get("trace") and item_case else "",
        data.get("action", ""),
        f"instead of decision {data['replaces']}" if "replaces" in data else "",
        f"by {data['reviewer']} ({data.get('team')})"
        if data.get("reviewer")
        else "by policy"
        if data.get("automated")
        else "",
        f"by {data['by']}" if "by" in data else "",
        str(data.get("text", "")),
        f"reasons {', '.join(data['reasons'])}" if data.get("reasons") and "action" in data else "",
        f"until {data['lease_until']}" if "lease_until" in data else "",
        f"by item {data['superseded_by']}" if "superseded_by" in data else "",
        str(data.get("reason", "")),
    ]
    return screen.clean("  ".join(part for part in told if part), 240)
