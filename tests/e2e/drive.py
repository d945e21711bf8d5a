"""Uses a running system as its clients do, and accounts for the items that it accepted."""

import asyncio
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import httpx

from deploy.local.accounting import Account, AuditCounts, ItemOutcome, Ledger, audit_counts
from deploy.local.system import System
from deploy.local.topic_reader import TopicReader
from piepowder.client import Api
from piepowder.imports.rows import Listing
from piepowder.profile import Profile, read_local
from piepowder.submit import ItemSubmitter
from piepowder.tally import RegionItem


def running(system: System) -> Profile:
    """The profile of the system, as a command in another terminal finds it."""
    return read_local(system.folder)


async def submit(system: System, bodies: Iterable[bytes]) -> set[RegionItem]:
    """Post all lines, and repeat them after interruptions; return the items with status 202."""
    async with Api(running(system)) as api:
        submitter = ItemSubmitter(api, journal=BytesIO(), report=BytesIO())
        tally = await submitter.submit(Listing(number, body) for number, body in enumerate(bodies, 1))
    return tally.items


async def review_until(system: System, region: str, done: asyncio.Event) -> int:
    """Claim and decide the region's cases until `done`; return the number of decisions with status 201 or 200."""
    decided = 0
    url = system.url("decision", region)
    headers = {"Authorization": f"Bearer {system.key()}"}
    async with httpx.AsyncClient(headers=headers, timeout=10, trust_env=False) as client:
        while not done.is_set():
            try:
                claim = await client.post(f"{url}/v1/claims", json={"reviewer": "r-1", "team": "t-1"})
                if claim.status_code != 201:
                    await asyncio.sleep(0.05)
                    continue
                decided += await _decide(client, url, claim.json(), done)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
    return decided


async def _decide(client: httpx.AsyncClient, url: str, claim: dict[str, Any], done: asyncio.Event) -> int:
    body = {"lease_token": claim["lease"]["token"], "action": "reject", "reasons": ["COUNTERFEIT"]}
    while not done.is_set():
        try:
            response = await client.post(f"{url}/v1/cases/{claim['case']['case_id']}/decisions", json=body)
        except httpx.TransportError:
            await asyncio.sleep(0.1)
            continue
        if response.status_code != 503:
            return int(response.status_code in (200, 201))
        await asyncio.sleep(0.1)
    return 0


async def settle(
    system: System, accepted: set[RegionItem], *, queues_empty: bool = False, seconds: float = 120
) -> Account:
    """Wait until every accepted item is settled, at most `seconds`; return the account at that time."""
    ledger = Ledger()
    reader = TopicReader(system.servers.kafka, system.regions, ledger)
    headers = {"Authorization": f"Bearer {system.key()}"}
    try:
        async with (
            httpx.AsyncClient(headers=headers, timeout=10, trust_env=False) as client,
            asyncio.timeout(seconds + 30),
        ):
            loop = asyncio.get_running_loop()
            deadline = loop.time() + seconds
            while True:
                await reader.catch_up()
                audits = {}
                for region in system.regions:
                    response = await client.get(f"{system.url('audit', region)}/v1/totals")
                    audits[region] = (
                        audit_counts(response.json()) if response.status_code == 200 else AuditCounts(-1, -1)
                    )
                account = ledger.account(accepted, audits)
                open_cases = account.outcomes.get(ItemOutcome.OPEN, 0)
                if loop.time() > deadline or (account.settled and not (queues_empty and open_cases)):
                    return account
                await asyncio.sleep(0.3)
    finally:
        await reader.close()
