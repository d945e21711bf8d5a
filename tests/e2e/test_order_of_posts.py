"""The order of posts without version numbers through all services (promise 6)."""

import pytest

from tests.e2e.conftest import Cell
from tests.e2e.steps import item, until_status

pytestmark = pytest.mark.timeout(180)


def send(cell: Cell, text: str, time: str = "") -> str:
    """Post the subject's content without a version number; returns the item's id."""
    body = {
        name: value
        for name, value in item(id="watch", title="Replica watch, 1:1 copy", text=text).items()
        if name != "version"
    }
    headers = {"Request-Time": time} if time else {}
    response = cell.client.post(f"{cell.url('intake')}/v1/items", json=body, headers=headers)
    assert response.status_code == 202, response.text
    item_id: str = response.json()["item_id"]
    return item_id


async def test_a_post_that_arrives_after_a_newer_one_of_its_client_does_not_supersede_it(cell: Cell) -> None:
    """The late post stands for one in a stopped process, which continued after the client had posted again."""
    newer = send(cell, "replica, second text", "2026-05-01T09:30:02Z")
    until_status(cell, newer, cell.eu, "in_review")
    late = send(cell, "replica, first text", "2026-05-01T09:30:01Z")
    shown = until_status(cell, late, cell.eu, "superseded")
    assert shown["reason"] == f"superseded by {newer}"
    until_status(cell, newer, cell.eu, "in_review")
    newest = send(cell, "replica, third text", "2026-05-01T09:30:03Z")
    until_status(cell, newer, cell.eu, "superseded")
    until_status(cell, newest, cell.eu, "in_review")
    without = send(cell, "replica, a post without a time")
    until_status(cell, newest, cell.eu, "superseded")
    until_status(cell, without, cell.eu, "in_review")
