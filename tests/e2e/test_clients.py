"""An API key in the whole system: all services accept it, and none of them after it is revoked, even after a kill."""

import time
from collections.abc import Callable

import pytest

from shared.contracts import ids
from tests.e2e.conftest import Cell

pytestmark = pytest.mark.timeout(180)


def statuses(cell: Cell, key: str) -> dict[str, int]:
    """The status of a call with this key, for each process."""
    eu, us = cell.eu, cell.us
    paths = {
        "intake": "/v1/totals",
        "intake-projection": "/v1/totals",
        "router": "/v1/control",
        **{f"decision-{region}": "/v1/queues" for region in (eu, us)},
        **{f"audit-{region}": "/v1/totals" for region in (eu, us)},
    }
    assert paths.keys() == cell.system.services.keys()
    headers = {"Authorization": f"Bearer {key}"}
    return {name: cell.client.get(cell.url(name) + path, headers=headers).status_code for name, path in paths.items()}


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait until the condition is true, at most `seconds`; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_revoked_key_is_rejected_by_every_service_also_after_all_were_killed(cell: Cell) -> None:
    intake = cell.url("intake")
    body = {
        "name": "auditor",
        "scopes": ["items:read", "control:read", "reviews:read", "audit:read"],
        "regions": [cell.eu, cell.us],
        "platforms": ["*"],
    }
    assert cell.client.post(f"{intake}/v1/clients", json=body).status_code == 201
    leaked, kept = (cell.client.post(f"{intake}/v1/clients/auditor/keys", json={}).json() for _ in range(2))
    until(lambda: set(statuses(cell, kept["key"]).values()) == {200}, 30)
    assert set(statuses(cell, leaked["key"]).values()) == {200}
    assert set(statuses(cell, ids.new_api_key("local")).values()) == {401}

    revoked = cell.client.delete(f"{intake}/v1/clients/auditor/keys/{leaked['key_id']}")
    assert revoked.status_code == 200
    passed = until(lambda: set(statuses(cell, leaked["key"]).values()) == {401}, 10)  # one second on a quiet machine
    print(f"revoked everywhere after {passed:.2f} s")
    assert set(statuses(cell, kept["key"]).values()) == {200}

    for service in cell.system.services.values():
        service.kill()
    for service in cell.system.services.values():
        service.start()
    cell.system.wait_ready()
    assert set(statuses(cell, leaked["key"]).values()) == {401}
    assert set(statuses(cell, kept["key"]).values()) == {200}
