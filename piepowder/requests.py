"""Business requests over intake's REST: create, change, decide, list and show them. A proposed change is in a file."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec
from rich.console import RenderableType
from rich.text import Text

from piepowder import console_output
from piepowder.client import Api
from shared.contracts import ids
from shared.runtime.clock import SystemClock, to_text

COMMANDS: Final = {
    "submit": "Submit a draft for decision; its change is checked again.",
    "withdraw": "Withdraw your own request.",
    "approve": "Approve a request of another person.",
    "reject": "Reject a request of another person, with --reason.",
    "deploy": "Record that the request is in force.",
    "rollback": "Record that the request is no longer in force, with --reason.",
    "review": "Record the result of the request.",
}
_PAGE: Final = 200
_clock = SystemClock()


async def new(api: Api, body: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
    """Create a request as a draft; `key` is an idempotency key."""
    name = key or _name(body)
    drafted: dict[str, Any] = (await api.post("intake", "/v1/requests", body, key=name)).json()
    return drafted


async def change(api: Api, request_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Change the current version of a draft."""
    path = _path(request_id)
    etag = f'"{(await api.get("intake", path))["version"]}"'
    response = await api.call("intake", "PATCH", path, json=body, headers={"If-Match": etag})
    changed: dict[str, Any] = response.json()
    return changed


async def act(api: Api, request_id: str, command: str, reason: str) -> dict[str, Any]:
    """Run one of `COMMANDS` on a request."""
    body = {"reason": reason} if reason else {}
    done: dict[str, Any] = (await api.post("intake", f"{_path(request_id)}/{command}", body)).json()
    return done


async def comment(api: Api, request_id: str, text: str) -> dict[str, Any]:
    """Comment on a request."""
    body = {"text": text}
    added: dict[str, Any] = (await api.post("intake", f"{_path(request_id)}/comments", body, key=_name(body))).json()
    return added


async def page(api: Api, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """The newest requests with these values, one page."""
    found: list[dict[str, Any]] = (await api.get("intake", "/v1/requests", limit=_PAGE, **wanted))["requests"]
    return found


async def show(api: Api, request_id: str) -> dict[str, Any]:
    """A request with its change, history and comments."""
    found: dict[str, Any] = await api.get("intake", _path(request_id))
    return found


def listed(requests: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Requests as a table."""
    table = console_output.table("request", "state", "kind", "regions", "by", "since", "title")
    for request in requests:
        since = str(request["updated_at"])[:16].replace("T", " ")
        regions = ", ".join(request["regions"])
        cells = (request["request_id"], request["state"], request["kind"], regions, request["drafted"]["by"], since)
        table.add_row(*map(console_output.clean, cells), console_output.clean(request["title"], 80))
    return table


def outcome(request: Mapping[str, Any]) -> str:
    """A request's state, in one line."""
    approvals = len(request["approvals"])
    needed = f", {approvals} of {request['approvals_needed']} approvals" if request["state"] == "submitted" else ""
    return f"{request['request_id']}: {console_output.clean(request['state'])}{needed}, version {request['version']}"


def checked(request: Mapping[str, Any]) -> list[str]:
    """The result of the router's check of the change, as lines."""
    check = request["check"]
    verdict = check.get("verdict", "nothing")
    if verdict == "nothing":
        return []
    if verdict == "unchecked":
        return [f"Its change is not checked yet: {console_output.clean(check.get('reason', ''))}"]
    differences = check.get("differences", [])
    lines = [f"  {console_output.clean(one['what'])}: {console_output.clean(one['how'])}" for one in differences]
    more = check.get("differing", 0) - len(lines)
    lines += [f"  and {more} more"] if more else []
    return ["Its change is valid and would change:" if lines else "Its change is valid and changes nothing.", *lines]


def shown(request: Mapping[str, Any]) -> list[RenderableType]:
    """A request with all details, to show."""
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
    fields = {name: console_output.clean(value) for name, value in values.items() if value not in (None, "")}
    parts: list[RenderableType] = [console_output.fields(fields), ""]
    if request["rationale"]:
        parts += [Text("\n".join(console_output.clean(line) for line in request["rationale"].splitlines())), ""]
    parts += [Text(line) for line in checked(request)]
    comments = {one["version"]: one["text"] for one in request["comments"]}
    table = console_output.table("when", "what", "by", "")
    for step in request["history"]:
        text = comments.get(step["version"], step["reason"])
        table.add_row(*map(console_output.clean, (step["at"], step["kind"], step["by"], text)))
    return [*parts, "", table]


def _path(request_id: str) -> str:
    return f"/v1/requests/{quote(request_id, safe='')}"


def _name(body: Mapping[str, Any]) -> str:
    """An idempotency key for this body at this time; a repeated call keeps it."""
    return ids.derive("command", msgspec.json.encode(body).decode(), to_text(_clock.now()))
