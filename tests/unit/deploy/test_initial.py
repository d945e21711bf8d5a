"""The setup of a new system: one key, and each part of the sample's rules that is not in force yet."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from deploy.docker import jobs
from deploy.initial import ensure_key, publish_sample
from shared.auth.authenticator import Authenticator
from shared.auth.clients_file import ClientEntry, read_clients_file
from shared.contracts.ids import hash_api_key, is_well_formed_api_key
from shared.runtime.errors import Transient
from shared.runtime.retry import Backoff
from shared.runtime.user_errors import UserError

BOTH = ["operating_model", "policy_set"]


def test_the_key_is_created_once_and_readable_only_by_its_owner(tmp_path: Path) -> None:
    key_file, clients_file = tmp_path / "key", tmp_path / "clients.json"
    key = ensure_key(key_file, clients_file, "me")
    assert is_well_formed_api_key(key)
    assert {path.stat().st_mode & 0o777 for path in (key_file, clients_file)} == {0o600}
    assert key not in clients_file.read_text()
    other = ClientEntry("other", hash_api_key("pp_x_other"), frozenset({"items:read"}), frozenset({"eu"}))
    known = msgspec.json.decode(clients_file.read_bytes(), type=list[ClientEntry])
    clients_file.write_bytes(msgspec.json.encode([other, *known]))
    assert ensure_key(key_file, clients_file, "me") == key
    after = {client.name: client for client in msgspec.json.decode(clients_file.read_bytes(), type=list[ClientEntry])}
    assert after.keys() == {"me", "other"}
    assert after["other"] == other
    assert after["me"].key_sha256 == hash_api_key(key)
    Authenticator(read_clients_file(clients_file))


def test_an_unreadable_clients_file_is_named_and_not_changed(tmp_path: Path) -> None:
    clients_file = tmp_path / "clients.json"
    clients_file.write_text("[{")
    with pytest.raises(UserError, match=r"clients\.json is not readable"):
        ensure_key(tmp_path / "key", clients_file, "me")
    assert clients_file.read_text() == "[{"


@pytest.mark.parametrize("in_force", [[], ["policy_set"], BOTH])
def test_only_the_parts_of_the_sample_that_are_not_in_force_are_published(in_force: list[str]) -> None:
    router = ControlApi(in_force)
    with router.client() as client:
        with pytest.raises(Transient, match="not ready"):
            publish_sample(client)
        published = publish_sample(client)
    assert published == [name for name in BOTH if name not in in_force]
    assert [sorted(body) for body in router.published] == ([published] if published else [])
    assert router.keys == {"Bearer pp_key"}


def test_a_system_publishes_only_its_own_regions_of_the_sample() -> None:
    router = ControlApi([], ready=True)
    with router.client() as client:
        publish_sample(client, regions=["us"])
    [body] = router.published
    assert [region["id"] for region in body["operating_model"]["regions"]] == ["us"]


def test_the_detail_of_a_rejection_by_the_router_is_shown() -> None:
    with ControlApi([], ready=True, rejecting=True).client() as client, pytest.raises(UserError, match="no such field"):
        publish_sample(client)


def test_a_job_waits_for_the_router(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(jobs, "_PACE", Backoff(first=0.001))
    with ControlApi([]).client() as client:
        assert jobs.publish(client) == BOTH
    assert "Trying again." in capsys.readouterr().err


class ControlApi:
    """A router's `/v1/control` that is not ready at first, unless `ready`."""

    def __init__(self, in_force: list[str], *, ready: bool = False, rejecting: bool = False) -> None:
        self.published: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self._in_force = in_force
        self._ready = ready
        self._rejecting = rejecting

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        headers = {"Authorization": "Bearer pp_key"}
        with httpx.Client(base_url="http://router", headers=headers, transport=httpx.MockTransport(self)) as client:
            yield client

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/control"
        self.keys.add(request.headers["authorization"])
        if not self._ready:
            self._ready = True
            return httpx.Response(503, json={"detail": "not ready"})
        if request.method == "GET":
            known = dict.fromkeys(BOTH) | {name: {"number": 1} for name in self._in_force}
            return httpx.Response(200, json=known)
        if self._rejecting:
            return httpx.Response(422, json={"detail": "no such field"})
        self.published.append(json.loads(request.content))
        return httpx.Response(200, json={})
