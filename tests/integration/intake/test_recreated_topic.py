"""A topic that was deleted and created again: no lookup of intake is certain until the loss is accepted."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from piepowder import positions
from shared.contracts import ids, topics
from tests.support import intake_complaints
from tests.support.intake_process import Intake, running_intake
from tests.support.recreation import recreate_topic
from tests.support.servers import Servers

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def intake(servers: Servers, tmp_path: Path) -> AsyncIterator[Intake]:
    async with running_intake(servers, f"recreated{os.getpid()}", tmp_path) as running:
        yield running


async def appeal(intake: Intake, item_id: str) -> httpx.Response:
    body = intake_complaints.appeal(item_id=item_id)
    headers = {"Authorization": f"Bearer {intake.keys['all']}"}
    return await intake.http.post("/v1/appeals", json=body, headers=headers)


async def accept_losses(intake: Intake) -> None:
    for group, tp, stored in await positions.find(intake.kafka, database=intake.database_url, group=None):
        if stored.gap is not None:
            await positions.accept_loss(
                intake.kafka,
                database=intake.database_url,
                group=group,
                tp=tp,
                first=stored.gap.first,
                last=None,
                by="anna",
                note="posted again",
            )


async def test_an_accepted_item_never_gets_a_certain_404(intake: Intake) -> None:
    for n in range(5):
        known = (await intake.send(intake.post(id=f"old-{n}", markets=["DE"]))).json()["item_id"]
        await intake.wait_for_status(known, intake.north, "submitted")
    await recreate_topic(intake.kafka, topics.submissions(intake.north))
    posted = await intake.send(intake.post(id="new", markets=["DE"]))
    while posted.status_code == 503:
        posted = await intake.send(intake.post(id="new", markets=["DE"]))
    assert posted.status_code == 202, posted.text
    item_id, unknown = posted.json()["item_id"], ids.derive("unknown")
    for _ in range(3):  # each call waits for 5 seconds: before and after the change is detected
        responses = await asyncio.gather(
            intake.withdraw(item_id), intake.withdraw(unknown), appeal(intake, item_id), appeal(intake, unknown)
        )
        assert [response.status_code for response in responses] == [503] * 4, [each.text for each in responses]
    assert "created again" in str((await intake.readyz())["conditions"])

    await accept_losses(intake)
    await intake.wait_for_status(item_id, intake.north, "submitted")
    await intake.ready()
    assert (await intake.withdraw(item_id)).status_code == 202
    assert (await intake.withdraw(unknown)).status_code == 404
    assert (await appeal(intake, unknown)).status_code == 404
