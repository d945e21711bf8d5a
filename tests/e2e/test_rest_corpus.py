"""The HTTP interface of the running services: responses to valid calls and to thousands of bad requests stay the same.

See `tests/contract/rest_corpus`.
"""

import asyncio
import os
import re
from collections.abc import Iterable, Mapping

import pytest

from deploy.services import SERVICES
from tests.contract.rest_corpus import cases, recording
from tests.contract.rest_corpus.calls import Connection
from tests.contract.rest_corpus.cases import Case
from tests.contract.rest_corpus.recording import Exchange, outcome
from tests.contract.rest_corpus.scenario import Scenario
from tests.e2e.conftest import Cell

pytestmark = pytest.mark.timeout(400)

_CONNECTIONS = 16
_CLIENTS = {"createClient", "changeClient", "createKey", "revokeKey"}
_SUBMISSIONS = {"postItem", "postItems", "postNotice", "postAppeal", "withdrawItem"}


def lane(case: Case) -> str:
    """The lane of a case: cases in one lane may change the same objects, so they are sent one after the other."""
    _, name = case.operation.split()
    return "clients" if name in _CLIENTS else case.operation


def phase(case: Case) -> int:
    """The phase of a case: submissions open cases and publications change rules, so both come last, in this order."""
    _, name = case.operation.split()
    return 2 if name == "publish" else 1 if name in _SUBMISSIONS else 0


async def test_responses_are_the_recorded_ones(cell: Cell) -> None:
    urls = {service.name: cell.url_of(service) for service in SERVICES}
    scenario = Scenario(urls, cell.eu, cell.us, cell.system.key())
    await asyncio.to_thread(scenario.play)
    exchanges = dict(scenario.exchanges)
    generated = list(cases.generate())
    for number in range(3):
        found = await sent((case for case in generated if phase(case) == number), urls, scenario)
        exchanges |= found
    if os.environ.get("PIEPOWDER_TEST_RECORD_CORPUS"):
        recording.write(exchanges, cases.SEED)
    differences = recording.differences(exchanges)
    assert not differences, recording.report(differences)


async def sent(chosen: Iterable[Case], urls: Mapping[str, str], scenario: Scenario) -> dict[str, list[Exchange]]:
    """Send requests over several connections; the exchanges by operation, in the order of the cases."""
    lanes: dict[str, list[Case]] = {}
    for case in chosen:
        lanes.setdefault(lane(case), []).append(case)
    at_once = asyncio.Semaphore(_CONNECTIONS)

    async def send(waiting: list[Case]) -> list[Exchange]:
        service = waiting[0].operation.split()[0]
        async with at_once, Connection(urls[service]) as connection:
            return [await exchanged(connection, case, scenario) for case in waiting]

    found: dict[str, list[Exchange]] = {}
    for exchanges in await asyncio.gather(*map(send, lanes.values())):
        for exchange in exchanges:
            found.setdefault(exchange.case.operation, []).append(exchange)
    return found


async def exchanged(connection: Connection, case: Case, scenario: Scenario) -> Exchange:
    values = scenario.values
    try:
        response = await connection.send(case, values)
    except (OSError, TimeoutError) as error:
        error.add_note(f"{case.operation}: {case.label}")
        raise
    tag = response.header("etag")
    if response.status == 200 and tag is not None and "changeRequest" in case.operation and re.fullmatch(r'"\d+"', tag):
        values["etag"] = tag
    return Exchange(case, connection.request(case, values), response, outcome(response, scenario.names))
