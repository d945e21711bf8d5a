"""Business requests, for people: written, listed, shown and decided over intake's REST; a change comes from a file."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec
from rich.console import RenderableType
from rich.text import Text

from piepowder import screen
from piepowder.client import Api
from shared.contracts import ids
from shared.runtime.clock import SystemClock, to_text

COMMANDS: Final = {
    "submit": "Put a draft up for decision; its change is checked again.",
    "withdraw": "Take one's own request back.",
    "approve": "Approve somebody else's request.",
    "reject": "Refuse somebody else's request, with --reason.",
    "deploy": "Say that what was asked for is in force.",
    "rollback": "Say that it is no longer in force, with --reason.",
    "review": "Say what came of it.",
}
_PAGE: Final = 200
_clock = SystemClock()


async def new(api: Api, body: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
    """Begin a request; `key` names it, so that the same again makes no second."""
    name = key or _name(body)
    drafted: dict[str, Any] = (await api.post("intake", "/v1/requests", body, key=name)).json()
    return drafted


async def change(api: Api, request_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Change the draft as it is now."""
    path = _path(request_id)
    etag = f'"{(await api.get("intake", path))["version"]}"'
    answer = await api.call("intake", "PATCH", path, json=body, headers={"If-Match": etag})
    changed: dict[str, Any] = answer.json()
    return changed


async def act(api: Api, request_id: str, command: str, reason: str) -> dict[str, Any]:
    """Do what a command says."""
    body = {"reason": reason} if reason else {}
    done: dict[str, Any] = (await api.post("intake", f"{_path(request_id)}/{command}", body)).json()
    return done


async def comment(api: Api, request_id: str, text: str) -> dict[str, Any]:
    """Say something about a request."""
    body = {"text": text}
    said: dict[str, Any] = (await api.post("intake", f"{_path(request_id)}/comments", body, key=_name(body))).json()
    return said


async def page(api: Api, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """The newest requests with these values; up to a page of them."""
    found: list[dict[str, Any]] = (await api.get("intake", "/v1/requests", limit=_PAGE, **wanted))["requests"]
    return found


async def show(api: Api, request_id: str) -> dict[str, Any]:
    """A request with its change, history and comments."""
    found: dict[str, Any] = await api.get("intake", _path(request_id))
    return found


def listed(requests: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A list, to be shown."""
    table = screen.table("request", "state", "kind", "regions", "by", "since", "title")
    for request in requests:
        since = str(request["updated_at"])[:16].replace("T", " ")
        regions = ", ".join(request["regions"])
        told = (request["request_id"], request["state"], request["kind"], regions, request["drafted"]["by"], since)
        table.add_row(*map(screen.clean, told), screen.clean(request["title"], 80))
    return table


def outcome(request: Mapping[str, Any]) -> str:
    """What became of a request, in a line."""
    approvals = len(request["approvals"])
    needed = f", {approvals} of {request['approvals_needed']} approvals" if request["state"] == "submitted" else ""
    return f"{request['request_id']}: {screen.clean(request['state'])}{needed}, version {request['version']}"


def checked(request: Mapping[str, Any]) -> list[str]:
    """What the router said of the change, a line each."""
    check = request["check"]
    verdict = check.get("verdict", "nothing")
    if verdict == "nothing":
        return []
    if verdict == "unchecked":
        return [f"Its change is not checked yet: {screen.clean(check.get('reason', ''))}"]
    differences = check.get("differences", [])
    lines = [f"  {screen.clean(one['what'])}: {screen.clean(one['how'])}" for one in differences]
    more = check.get("differing", 0) - len(lines)
    lines += [f"  and {more} more"] if more else []
    return ["Its change fits, and would change:" if lines else "Its change fits, and would change nothing.", *lines]


def shown(request: Mapping[str, Any]) -> list[RenderableType]:
    """A request with all there is, to be shown."""
    values = {
        "request": request["request_id"],
        "state": request["state"],
        "title": request["title"],
        "kind": request["kind"],
        "sponsor": request["sponsor"],
        "regions": ", ".join(request["regions"]),
        "markets": ", ".join(request["markets"]) or "all",
        "items a day": request["expected_items_per_day"],
        "from": request["expected_date"],
        "approved by": ", ".join(mark["by"] for mark in request["approvals"]),
        "in the audit": request["subject"],
    }
    told = {name: screen.clean(value) for name, value in values.items() if value not in (None, "")}
    parts: list[RenderableType] = [screen.facts(told), ""]
    if request["rationale"]:
        parts += [Text("\n".join(screen.clean(line) for line in request["rationale"].splitlines())), ""]
    parts += [Text(line) for line in checked(request)]
    said = {one["version"]: one["text"] for one in request["comments"]}
    table = screen.table("when", "what", "by", "")
    for step in request["history"]:
        words = said.get(step["version"], step["reason"])
        table.add_row(*map(screen.clean, (step["at"], step["kind"], step["by"], words)))
    return [*parts, "", table]


def _path(request_id: str) -> str:
    return f"/v1/requests/{quote(request_id, safe='')}"


def _name(body: Mapping[str, Any]) -> str:
    """A key for what is said now; a call that is tried again keeps it."""
    return ids.derive("command", msgspec.json.encode(body).decode(), to_text(_clock.now()))
