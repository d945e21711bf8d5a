"""Steps that the tests share: the REST calls of sellers, notifiers and reviewers, and waiting for their results."""

import time
from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Cell


def item(**fields: Any) -> dict[str, Any]:
    """The body of a post that the sample policies approve."""
    return {
        "platform": "web",
        "kind": "product",
        "id": "lamp-1",
        "version": 1,
        "markets": ["DE"],
        "language": "en",
        "title": "Desk lamp, brass",
        "text": "A lamp for a desk.",
        "price": {"amount_minor": 3900, "currency": "EUR"},
        **fields,
    }


def post(cell: Cell, collection: str, body: dict[str, Any], status_code: int = 202) -> dict[str, Any]:
    """Post to `items`, `notices` or `appeals`; return the response's JSON."""
    response = cell.client.post(f"{cell.url('intake')}/v1/{collection}", json=body)
    assert response.status_code == status_code, response.text
    found: dict[str, Any] = response.json()
    return found


def until(get: Callable[[], httpx.Response], fits: Callable[[Any], bool], seconds: float = 60) -> Any:
    """Repeat a request until its JSON satisfies `fits`; return that JSON. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        response = get()
        if response.status_code == 200 and fits(response.json()):
            return response.json()
        assert time.monotonic() < deadline, response.text
        time.sleep(0.1)


def until_status(cell: Cell, item_id: str, region: str, status: str) -> Any:
    """Wait until an item has this status in a region; return its status there."""
    return _until_status(cell, f"items/{item_id}", region, status)


def until_complaint_status(cell: Cell, collection: str, complaint_id: str, status: str) -> Any:
    """Wait until one of the `notices` or `appeals` has this status in `cell.eu`; return its status there."""
    return _until_status(cell, f"{collection}/{complaint_id}", cell.eu, status)


def _until_status(cell: Cell, path: str, region: str, status: str) -> Any:
    found = until(
        lambda: cell.client.get(f"{cell.url('intake')}/v1/{path}"),
        lambda body: body["regions"].get(region, {}).get("status") == status,
    )
    return found["regions"][region]


def claim(cell: Cell, reviewer: str, *queues: str) -> dict[str, Any] | None:
    """Claim the next case of some queues; None if no case waits there."""
    wanted = {"reviewer": reviewer, "team": "in_house", "queues": list(queues)}
    response = cell.client.post(f"{cell.url('decision', cell.eu)}/v1/claims", json=wanted)
    assert response.status_code in (201, 204, 422), response.text  # 422: the queue has never had a case
    found: dict[str, Any] | None = response.json() if response.status_code == 201 else None
    return found


def until_claimed(cell: Cell, reviewer: str, *queues: str) -> dict[str, Any]:
    """Claim the next case of some queues; wait until there is one."""
    claimed: list[dict[str, Any]] = []

    def claim_and_look() -> httpx.Response:
        if (found := claim(cell, reviewer, *queues)) is not None:
            claimed.append(found)
        return cell.client.get(f"{cell.url('decision', cell.eu)}/v1/queues")

    until(claim_and_look, lambda _: bool(claimed))
    return claimed[0]


def decide(cell: Cell, claimed: dict[str, Any], action: str, *reasons: str) -> dict[str, Any]:
    """Decide a claimed case."""
    body = {"lease_token": claimed["lease"]["token"], "action": action, "reasons": list(reasons)}
    path = f"{cell.url('decision', cell.eu)}/v1/cases/{claimed['case']['case_id']}/decisions"
    response = cell.client.post(path, json=body)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def lag_seconds(cell: Cell, name: str) -> float:
    """The largest lag of a service's consumers; 0 if the service exports none."""
    families = text_string_to_metric_families(cell.client.get(f"{cell.url(name)}/metrics").text)
    return max(
        (
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "piepowder_consumer_lag_seconds"
        ),
        default=0.0,
    )


def oldest_submitted(cell: Cell) -> float:
    """The age of the oldest item, notice, appeal or withdrawal of `cell.eu` without effect, as the metric shows it."""
    process = cell.system.services["intake-projection"]
    families = text_string_to_metric_families(cell.client.get(f"{process.url}/metrics").text)
    return next(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "piepowder_intake_oldest_submitted_seconds" and sample.labels["region"] == cell.eu
    )
