"""Notices and appeals through all services, as notifiers, sellers and reviewers see them (promises 1 to 6)."""

import asyncio
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from piepowder import timeline as command
from piepowder.client import Api
from tests.conftest import project_root
from tests.e2e import drive
from tests.e2e.conftest import Cell
from tests.e2e.steps import claim, decide, item, post, until, until_claimed, until_complaint_status, until_status
from tests.support.intake_complaints import appeal, notice
from tests.support.processes import start_process

pytestmark = pytest.mark.timeout(180)

REPLICA = "Replica watch, 1:1 copy"


def timeline(cell: Cell, subject: str, until_type: str) -> list[dict[str, Any]]:
    path = f"{cell.url('audit', cell.eu)}/v1/subjects/{subject.replace(':', '/')}/timeline"
    found = until(
        lambda: cell.client.get(path),
        lambda body: any(event["type"] == f"piepowder.{until_type}.v1" for event in body.get("events", ())),
    )
    events: list[dict[str, Any]] = found["events"]
    return events


async def test_an_appeal_goes_to_another_reviewer_and_replaces_the_decision(cell: Cell) -> None:
    posted = post(cell, "items", item(id="watch-1", title=REPLICA))
    first = decide(cell, until_claimed(cell, "r-1", "counterfeit"), "reject", "COUNTERFEIT")
    until_status(cell, posted["item_id"], cell.eu, "rejected")
    body = appeal(item_id=posted["item_id"])
    receipt = post(cell, "appeals", body)
    assert receipt["decision_id"] == first["decision_id"]
    assert until_complaint_status(cell, "appeals", receipt["appeal_id"], "in_review")["queue"] == "appeals"
    assert post(cell, "appeals", body | {"reference": "2"}, 409)["type"].endswith(":appeal-open")
    assert claim(cell, "r-1", "appeals") is None
    claimed = until_claimed(cell, "r-2", "appeals")
    assert claimed["case"]["appeal"]["explanation"] == body["explanation"]
    assert "email" not in claimed["case"]["appeal"]["appellant"]
    assert [about["item"]["title"] for about in claimed["case"]["concerns"]] == [REPLICA]
    decide(cell, claimed, "overturn")
    shown = until_status(cell, posted["item_id"], cell.eu, "approved")
    assert (shown["decision"]["reviewer"], shown["decision"]["automated"]) == ("r-2", False)
    assert until_complaint_status(cell, "appeals", receipt["appeal_id"], "decided")["decision"]["action"] == "overturn"
    assert post(cell, "appeals", body) == receipt

    events = timeline(cell, "web:product:watch-1", "decision.replaced")
    types = [event["type"].removeprefix("piepowder.").removesuffix(".v1") for event in events]
    assert types == [
        "item.submitted",
        "case.opened",
        "case.claimed",
        "decision.made",
        "appeal.submitted",
        "case.opened",
        "case.claimed",
        "decision.made",
        "decision.replaced",
    ]
    assert [event["causation_id"] for event in events[1:]] == [event["id"] for event in events[:-1]]
    assert len({event["correlation_id"] for event in events}) == 1
    async with Api(drive.running(cell.system)) as api:
        [tree] = await command.timeline(api, "web:product:watch-1", [cell.eu])
    printed = StringIO()
    Console(width=250, file=printed).print(tree)
    text = printed.getvalue()
    assert f"seller appeals against reject: “{body['explanation']}”" in text
    assert f"instead of decision {first['decision_id']}" in text


def test_notices_of_trusted_flaggers_come_first_outlive_the_item_and_can_be_appealed(cell: Cell) -> None:
    posted = post(cell, "items", item(id="chair-1", title="Garden chair of oak"))
    until_status(cell, posted["item_id"], cell.eu, "approved")
    about = {"platform": "web", "id": "chair-1", "markets": ["DE"]}
    by_user = post(cell, "notices", notice(**about, reference="user"))
    until_complaint_status(cell, "notices", by_user["notice_id"], "in_review")
    trusted = {"kind": "trusted_flagger", "name": "Markenschutz", "email": "m@brand.example"}
    by_flagger = post(cell, "notices", notice(**about, reference="flagger", reporter=trusted))
    assert until_complaint_status(cell, "notices", by_flagger["notice_id"], "in_review")["queue"] == "notices"
    assert cell.client.delete(f"{cell.url('intake')}/v1/items/{posted['item_id']}").status_code == 202
    claimed = until_claimed(cell, "r-1", "notices")
    assert (claimed["case"]["item_id"], claimed["case"]["priority"]) == (by_flagger["notice_id"], 2)
    assert claimed["case"]["notice"]["reporter"] == {"kind": "trusted_flagger", "name": "Markenschutz"}
    assert claimed["case"]["concerns"][0]["item"]["title"] == "Garden chair of oak"
    decide(cell, claimed, "reject", "COUNTERFEIT")
    second = until_claimed(cell, "r-1", "notices")
    assert second["case"]["item_id"] == by_user["notice_id"]
    stays = decide(cell, second, "approve")
    assert until_complaint_status(cell, "notices", by_user["notice_id"], "decided")["decision"]["action"] == "approve"

    body = appeal(notice_id=by_user["notice_id"], appellant={"kind": "notifier"})
    receipt = post(cell, "appeals", body)
    assert receipt["decision_id"] == stays["decision_id"]
    claimed = until_claimed(cell, "r-2", "appeals")
    assert [concerned["case_type"] for concerned in claimed["case"]["concerns"]] == ["notice", "item"]
    decide(cell, claimed, "overturn", "COUNTERFEIT")
    found = until(
        lambda: cell.client.get(f"{cell.url('intake')}/v1/notices/{by_user['notice_id']}"),
        lambda body: body["regions"][cell.eu]["decision"]["action"] == "reject",
    )
    assert found["regions"][cell.eu]["decision"]["reasons"] == ["COUNTERFEIT"]
    until_status(cell, posted["item_id"], cell.eu, "approved")  # the decision about the item itself is unchanged
    totals = cell.client.get(f"{cell.url('decision', cell.eu)}/v1/totals").json()
    assert totals["appeals"]["overturn"] >= 1


async def test_the_tour_of_the_docs_works_as_it_is_written(cell: Cell) -> None:
    page = (project_root() / "docs" / "architecture" / "notices-and-appeals.md").read_text()
    tour = page.partition("## A tour\n")[2].partition("```sh\n")[2].partition("```")[0]
    places = {
        "INTAKE": cell.url("intake"),
        "DECISION": cell.url("decision", cell.eu),
        "AUDIT": cell.url("audit", cell.eu),
        "AUTH": f"'Authorization: Bearer {cell.system.key()}'",
    }
    given = ("eval ", *(f"{name}=" for name in places))
    lines = [line for line in tour.splitlines() if not line.startswith(given)]
    script = "\n".join(["set -eu", *(f"{name}={place}" for name, place in places.items()), *lines])
    process = await start_process(
        "bash", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(100):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode()
    assert process.returncode == 0, text
    shown = [line for line in text.splitlines() if line not in ("true", "false")]
    assert shown[:2] == ['"It bears our mark, and we have not made it."', '"Desk lamp, brass"']
    assert shown[3:5] == ["204", '"overturn"']
    assert shown[-1].endswith("piepowder.decision.replaced.v1")
