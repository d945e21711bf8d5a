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
from piepowder.review import due_in
from shared.clock import SystemClock, from_text

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_clock = SystemClock()


async def status(api: Api) -> tuple[list[RenderableType], bool]:
    """What to show of the whole system, and whether every service is ready."""
    running = api.running
    services = screen.table("service", "ready", "url", "pid", "log")
    answers = await asyncio.gather(*(api.attempt(service.name, "GET", "/readyz") for service in running.services))
    all_ready = True
    for service, (answer, hindered) in zip(running.services, answers, strict=True):
        lacking = hindered if answer is None else _lacking(answer.json())
        all_ready = all_ready and not lacking
        state = Text("ready", "green") if not lacking else Text(lacking, "red")
        services.add_row(service.name, state, service.url, str(service.pid), screen.near(service.log))
    for server in running.servers:
        services.add_row(
            server.name, "", running.kafka if "Kafka" in server.name else "", str(server.pid), screen.near(server.log)
        )
    parts: list[RenderableType] = [services]
    if not all_ready:
        return parts, False
    queues = screen.table("region", "queue", "first due", "waiting", "claimed", "overdue", right=3)
    decided = screen.table("region", "decided by", "approved", "rejected", right=2)
    for region in running.regions:
        listing, totals = await asyncio.gather(
            api.get(f"decision-{region}", "/v1/queues"), api.get(f"decision-{region}", "/v1/totals")
        )
        for queue in listing["queues"]:
            due = queue.get("oldest_due_at")
            first = due_in(due, _clock.now()) if due else ""
            counts = [f"{queue[name]:,}" for name in ("waiting", "claimed", "overdue")]
            queues.add_row(region, queue["queue"], first, *counts)
        for who in ("policy", "people"):
            made = totals["decisions"].get(who, {})
            decided.add_row(region, who, f"{made.get('approve', 0):,}", f"{made.get('reject', 0):,}")
    totals = await api.get("intake", "/v1/totals")
    items = screen.table("region", "items", right=1)
    for region, counts in totals["regions"].items():
        items.add_row(region, ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())) or "none yet")
    lag = totals["projection"]["lag_seconds"]
    parts += ["", queues, "", decided, "", items, f"status is {lag or 0:.1f} s behind"]
    return parts, True


def _lacking(readiness: Mapping[str, Any]) -> str:
    lacking = [f"{name}: {text}" for name, text in readiness.get("conditions", {}).items() if text != "ok"]
    return "; ".join(lacking)


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


def _says(event: Mapping[str, Any]) -> str:
    """The few fields of an event that tell what happened."""
    data = event["data"]
    if not isinstance(data, dict):
        return screen.clean(event.get("source", ""))
    item = data.get("item") or {}
    told = [
        f"version {data['version']}" if data.get("version") is not None and item else "",
        f"“{item['title']}”" if item.get("title") and "queue" not in data else "",
        f"{data['verdict']} →" if "verdict" in data else "",
        f"queue {data['queue']}" if "queue" in data and "action" not in data else "",
        f"due {data['due_at']}" if "verdict" in data else "",
        f"policies {', '.join(data['trace'].get('matched') or ['none'])}" if data.get("trace") else "",
        data.get("action", ""),
        f"by {data['reviewer']} ({data.get('team')})"
        if data.get("reviewer")
        else "by policy"
        if data.get("automated")
        else "",
        f"reasons {', '.join(data['reasons'])}" if data.get("reasons") and "action" in data else "",
        f"until {data['lease_until']}" if "lease_until" in data else "",
        f"by item {data['superseded_by']}" if "superseded_by" in data else "",
        str(data.get("reason", "")),
    ]
    return screen.clean("  ".join(part for part in told if part), 240)
