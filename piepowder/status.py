"""The state of a deployment (`piepowder status`): readiness, open cases, decisions, dead letters and items."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka.errors import KafkaError
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from piepowder import console_output
from piepowder.case_display import due_in
from piepowder.client import Api
from piepowder.dead_letters import DeadLetterCounts, RegionDeadLetters
from piepowder.hints import command, runnable
from piepowder.profile import Profile
from piepowder.topic_reading import new_consumer, read_to_end
from shared.contracts import topics
from shared.kafka.closing import close
from shared.runtime.clock import SystemClock

_TIMEOUT: Final = 2.0
_COUNT_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 0.3  # closing a client takes seconds while its broker does not respond
_SILENT: Final = "does not respond"
_clock = SystemClock()


async def status(api: Api) -> tuple[list[RenderableType], bool]:
    """The tables to show, and True if every service is ready.

    All services are called at the same time, each with a timeout of two seconds; the tables name those that do not
    respond.
    """
    profile, now = api.profile, _clock.now()
    names = list(_services(profile))
    decisions = [f"decision-{region}" for region in profile.regions if ("decision", region) in profile.services]
    with_totals = [*(["intake"] if ("intake", "") in profile.services else []), *decisions]
    readiness, totals, listings, letters = await asyncio.gather(
        _get(api, names, "/readyz"),
        _get(api, with_totals, "/v1/totals"),
        _get(api, decisions, "/v1/queues"),
        dead_letter_counts(profile.kafka, profile.regions, seconds=_TIMEOUT),
    )
    states = {name: _SILENT if (found := readiness[name]) is None else _missing(found) for name in names}
    queues = console_output.table("region", "queue", "first due", "waiting", "claimed", "overdue", right=3)
    decided = console_output.table("region", "decided by", "approved", "rejected", right=2)
    items = console_output.table("region", "dead letters", "items")
    intake = totals.get("intake") or {}
    for region in profile.regions:
        for queue in (listings.get(f"decision-{region}") or {}).get("queues", []):
            due = queue.get("oldest_due_at")
            counts = [f"{queue[name]:,}" for name in ("waiting", "claimed", "overdue")]
            queues.add_row(region, queue["queue"], due_in(due, now) if due else "", *counts)
        for who, made in (totals.get(f"decision-{region}") or {}).get("decisions", {}).items():
            decided.add_row(region, who, f"{made.get('approve', 0):,}", f"{made.get('reject', 0):,}")
        in_region = intake.get("regions", {}).get(region)
        of_items = "?" if in_region is None else ", ".join(f"{n:,} {name}" for name, n in sorted(in_region.items()))
        of_letters = (letters or {}).get(region)
        items.add_row(region, "?" if of_letters is None else str(of_letters), of_items or "none yet")
    processes = _process_table(profile, states, kafka_responds=letters is not None)
    parts: list[RenderableType] = [processes, "", queues, "", decided, "", items]
    if (lag := intake.get("projection", {}).get("lag_seconds")) is not None:
        parts.append(f"items are as of {lag:.1f} s ago")
    for name, found in readiness.items():
        for group, stopped in ((found or {}).get("stopped") or {}).items():
            for topic, why in stopped.items():
                parts.append(Text(runnable(f"{name}: {group} stopped reading {topic}. {why}"), "yellow"))
    if letters == {} and profile.regions:
        parts.append(f"There are too many dead letters to count here: {command('replay')} counts them.")
    if not profile.kafka:
        parts.append("Dead letters are not counted: the profile does not give `kafka`.")
    if silent := [name for name, found in (totals | listings).items() if found is None]:
        parts.append(Text(f"No counts from {', '.join(silent)}.", "red"))
    return parts, not any(states.values())


async def dead_letter_counts(
    bootstrap: str, regions: Sequence[str], *, seconds: float, count_seconds: float = _COUNT_SECONDS
) -> dict[str, DeadLetterCounts] | None:
    """The numbers of each region's dead letters; None when Kafka does not respond within `seconds`.

    Empty when the topics cannot be read to their end within another `count_seconds`: a part would be a wrong number.
    """
    if not bootstrap:
        return None
    found = {topics.deadletters(region): RegionDeadLetters() for region in regions}
    consumer = new_consumer(bootstrap, "piepowder-command", *found)
    has_responded = False
    try:
        async with asyncio.timeout(seconds) as limit:
            await consumer.start()
            await consumer.end_offsets(consumer.assignment())
            has_responded = True
            limit.reschedule(asyncio.get_running_loop().time() + count_seconds)
            async for record in read_to_end(consumer):
                found[record.topic].add_letter(record)
    except (KafkaError, OSError, TimeoutError):
        return {} if has_responded else None
    finally:
        await asyncio.wait([asyncio.ensure_future(close(consumer))], timeout=_CLOSE_SECONDS)
    return {region: found[topics.deadletters(region)].counts() for region in regions}


def _services(profile: Profile) -> dict[str, str]:
    """The URL of every service process. The local stack has more processes than services."""
    urls = {f"{service}-{region}".rstrip("-"): url for (service, region), url in profile.services.items()}
    return urls | {one.name: one.address for one in profile.processes if one.address.startswith("http")}


def _process_table(profile: Profile, states: Mapping[str, str], *, kafka_responds: bool) -> Table:
    local = {process.name: process for process in profile.processes}
    table = console_output.table("process", "ready", "address", *(["pid", "log"] if local else []))
    silent_kafka = "" if kafka_responds else _SILENT
    others = {one.name: one.address for one in profile.processes if one.name not in states}
    for name, address in (_services(profile) | others).items():
        if name in states:
            state = Text(states[name], "red") if states[name] else Text("ready", "green")
        else:
            state = Text(silent_kafka if "Kafka" in name else "", "red")
        own = [str(local[name].pid), console_output.relative(local[name].log)] if name in local else []
        table.add_row(name, state, address, *own)
    return table


async def _get(api: Api, services: Sequence[str], path: str) -> dict[str, dict[str, Any] | None]:
    """Each service's response at a path; None when it fails or takes too long."""
    responses = await asyncio.gather(*(api.attempt(name, "GET", path, timeout=_TIMEOUT) for name in services))
    return {
        name: response.json() if response is not None and (response.status_code == 200 or path == "/readyz") else None
        for name, (response, _) in zip(services, responses, strict=True)
    }


def _missing(readiness: Mapping[str, Any]) -> str:
    conditions = readiness.get("conditions", {})
    return runnable("; ".join(f"{name}: {text}" for name, text in conditions.items() if text != "ok"))
