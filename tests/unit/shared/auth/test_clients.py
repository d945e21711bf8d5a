"""Clients from the file and from the control topic: the end of a key, rate limits, refusals and uses of keys."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from shared.auth import clients
from shared.auth.access_log import AccessLog
from shared.auth.authenticator import Authenticator, charge
from shared.auth.clients_file import ClientEntry, read_clients_file
from shared.auth.principal import Principal
from shared.contracts import ids
from shared.contracts.envelope import GLOBAL, Attributes, Event, decode
from shared.contracts.events import ACCESS_REFUSED, CLIENT_CHANGED, AccessRefused, ClientChanged, ClientKey, RateLimit
from shared.http.app import create_app
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock, to_text
from shared.runtime.errors import Fatal, Poison, Transient
from shared.runtime.readiness import Readiness
from shared.validation.faults import InputRejected

START = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
ADMIN, OLD, NEW = (ids.new_api_key("test") for _ in range(3))
SCOPES = frozenset({"items:write"})


class AccessTopic:
    """A producer that stores records; it can fail before it stores them, or store them without acknowledgement."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.unreachable = False
        self.unacknowledged = False

    async def send(self, records: Sequence[Record]) -> None:
        if self.unreachable:
            raise Transient("Kafka does not respond.")
        self.records += records
        if self.unacknowledged:
            raise Transient("Kafka did not acknowledge.")

    def refusals(self) -> list[AccessRefused]:
        events = [decode(record.headers, record.key, record.value) for record in self.records]
        return [event.data for event in events if event.attributes.type == ACCESS_REFUSED]


class GuardedService:
    """An application with one guarded route, and an authenticator that follows the published clients."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.topic = AccessTopic()
        self.log = AccessLog(
            service="test",
            source="piepowder/test",
            producers={"eu": self.topic, "us": self.topic},
            clock=self.clock,
        )
        self.authenticator = Authenticator(
            [ClientEntry("admin", ids.hash_api_key(ADMIN), SCOPES)],
            clock=self.clock,
            regions=["eu", "us"],
            refusals=self.log,
            follows=True,
        )
        self.app: FastAPI = create_app("test", "For tests.", Readiness("test"))

        async def guarded(request: Request) -> Response:
            client = self.authenticator.principal(request, "items:write")
            charge(request, int(request.query_params.get("items", "0")))
            return Response(client.name)

        self.app.add_route("/v1/things/{thing}", guarded)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    async def call(self, key: str | None = None, thing: str = "1", **parameters: str) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.http.get(f"/v1/things/{thing}", params=parameters, headers=headers)

    def publish(self, *, subject: str | None = None, **fields: Any) -> None:
        self.authenticator.apply(client_changed(subject=subject, **fields))


def client_changed(*, subject: str | None = None, **fields: Any) -> Event[ClientChanged]:
    whole: dict[str, Any] = {
        "name": "shop",
        "revision": 1,
        "state": "active",
        "change": "created",
        "changed_by": "admin",
        "scopes": ["items:write"],
        "regions": ["eu"],
        "keys": [ClientKey(sha256=ids.hash_api_key(OLD), created_at=to_text(START))],
    } | fields
    client = ClientChanged(**whole)
    event_id = ids.event_id(client.name, CLIENT_CHANGED, client.revision)
    attributes = Attributes(
        event_id,
        CLIENT_CHANGED,
        "piepowder/intake",
        to_text(START),
        subject or clients.subject(client.name),
        GLOBAL,
        event_id,
    )
    return Event(attributes, client)


@pytest.fixture
async def service() -> AsyncIterator[GuardedService]:
    service = GuardedService()
    service.authenticator.caught_up()
    async with service.http:
        yield service


async def test_until_the_topic_is_read_only_keys_of_the_file_are_accepted_and_others_get_503() -> None:
    service = GuardedService()
    service.publish()
    assert (await service.call(ADMIN)).status_code == 200
    for key in (OLD, NEW):
        response = await service.call(key)
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert (await service.call("nonsense")).status_code == 401
    service.authenticator.caught_up()
    assert (await service.call(OLD)).status_code == 200
    assert (await service.call(NEW)).status_code == 401


async def test_both_keys_are_accepted_during_a_rotation(service: GuardedService) -> None:
    old = ClientKey(sha256=ids.hash_api_key(OLD), created_at=to_text(START))
    new = ClientKey(sha256=ids.hash_api_key(NEW), created_at=to_text(START))
    service.publish(keys=[old, new])
    assert [(await service.call(key)).text for key in (OLD, NEW)] == ["shop", "shop"]
    service.publish(revision=2, keys=[msgspec.structs.replace(old, revoked_at=to_text(START)), new])
    assert [(await service.call(key)).status_code for key in (OLD, NEW)] == [401, 200]
    assert "revoked" in (await service.call(OLD)).json()["detail"]


async def test_a_key_expires_at_its_time_plus_the_tolerated_clock_skew(service: GuardedService) -> None:
    ends = to_text(START + timedelta(minutes=1))
    service.publish(keys=[ClientKey(sha256=ids.hash_api_key(OLD), created_at=to_text(START), expires_at=ends)])
    service.clock.advance(timedelta(seconds=64))
    assert (await service.call(OLD)).status_code == 200
    service.clock.advance(timedelta(seconds=2))
    response = await service.call(OLD)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert "expired" in response.json()["detail"]


@pytest.mark.parametrize("state", ["disabled", "something newer"])
async def test_a_client_that_is_not_active_is_refused(service: GuardedService, state: str) -> None:
    service.publish(state=state)
    assert "disabled" in (await service.call(OLD)).json()["detail"]


async def test_scopes_that_a_client_with_platforms_cannot_have_are_ignored_and_its_key_can_be_revoked(
    service: GuardedService,
) -> None:
    wide: dict[str, Any] = {"scopes": ["items:write", "audit:read", "newer:things"], "platforms": ["shop"]}
    service.publish(**wide)
    assert (await service.call(OLD)).status_code == 200
    request = Request({"type": "http", "headers": [(b"authorization", f"Bearer {OLD}".encode())]})
    assert service.authenticator.principal(request, "items:write").scopes == {"items:write"}
    with pytest.raises(InputRejected):
        service.authenticator.principal(request, "audit:read")
    key = ClientKey(sha256=ids.hash_api_key(OLD), created_at=to_text(START), revoked_at=to_text(START))
    service.publish(**wide, revision=2, keys=[key])
    assert (await service.call(OLD)).status_code == 401


async def test_an_earlier_revision_does_not_replace_a_later_one(service: GuardedService) -> None:
    service.publish(revision=7, state="disabled")
    service.publish(revision=3)
    service.publish(revision=7)
    assert (await service.call(OLD)).status_code == 401


async def test_a_client_without_any_region_of_the_service_is_refused(service: GuardedService) -> None:
    service.publish(regions=["mars"])
    response = await service.call(OLD)
    assert (response.status_code, response.json()["type"]) == (403, "urn:piepowder:problem:region-not-allowed")


async def test_clients_of_the_file_have_precedence_over_published_clients(service: GuardedService) -> None:
    service.publish(name="admin")
    assert (await service.call(OLD)).status_code == 401
    service.publish(name="admin", revision=2, state="disabled")
    assert (await service.call(ADMIN)).text == "admin"


async def test_a_key_that_is_not_in_the_latest_revision_is_refused(service: GuardedService) -> None:
    service.publish()
    assert (await service.call(OLD)).status_code == 200
    service.publish(revision=2, keys=[])
    assert (await service.call(OLD)).status_code == 401


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subject": "client:other"}, "has the record key"),
        ({"name": "Shop!"}, "not a client's name"),
        ({"name": "person-1"}, "reserved for people"),
        ({"revision": 0}, "revision"),
        ({"scopes": ["everything"]}, "not a scope"),
        ({"regions": ["EU"]}, "not a region"),
        ({"platforms": ["Shop"]}, "not a platform"),
        ({"limit": RateLimit(requests_per_second=0, burst=1)}, "requests_per_second"),
        ({"limit": RateLimit(requests_per_second=float("nan"), burst=1)}, "requests_per_second"),
        ({"limit": RateLimit(requests_per_second=1, burst=0)}, "burst"),
        ({"limit": RateLimit(requests_per_second=1, burst=1, items_per_second=-1)}, "items_per_second"),
        ({"limit": RateLimit(requests_per_second=1, burst=1, items_per_second=5e-324)}, "items_per_second"),
        ({"keys": [ClientKey(sha256="00", created_at=to_text(START))]}, "not a SHA-256"),
        ({"keys": [ClientKey(sha256="0" * 64, created_at="yesterday")]}, "not a time"),
        ({"keys": [ClientKey(sha256="0" * 64, created_at=to_text(START))] * 2}, "twice"),
        ({"keys": [ClientKey(sha256=f"{n:064x}", created_at=to_text(START)) for n in range(21)]}, "more than 20"),
        (
            {"keys": [ClientKey(sha256=ids.hash_api_key(ADMIN), created_at=to_text(START))]},
            "another client has one of its keys",
        ),
    ],
)
async def test_an_invalid_record_is_poison_and_changes_nothing(
    service: GuardedService, fields: dict[str, Any], message: str
) -> None:
    service.publish()
    with pytest.raises(Poison, match=message):
        service.publish(**({"revision": 2} | fields))
    assert (await service.call(OLD)).text == "shop"
    assert (await service.call(ADMIN)).text == "admin"


async def test_a_client_above_its_limit_gets_429_with_the_time_to_wait(service: GuardedService) -> None:
    service.publish(limit=RateLimit(requests_per_second=0.5, burst=2))
    first = await service.call(OLD)
    assert first.headers["ratelimit-policy"] == '"requests";q=2;w=4'
    assert first.headers["ratelimit"] == '"requests";r=1;t=2'
    assert (await service.call(OLD)).status_code == 200
    refused = await service.call(OLD)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert refused.json()["type"] == "urn:piepowder:problem:rate-limited"
    assert refused.headers["ratelimit"] == '"requests";r=0;t=4'
    assert (await service.call(ADMIN)).headers.get("ratelimit") is None
    service.clock.advance(timedelta(seconds=2))
    assert (await service.call(OLD)).status_code == 200
    assert (await service.call(OLD)).status_code == 429


async def test_both_keys_of_a_client_share_its_limit_and_a_change_of_other_fields_does_not_refill_it(
    service: GuardedService,
) -> None:
    keys = [ClientKey(sha256=ids.hash_api_key(key), created_at=to_text(START)) for key in (OLD, NEW)]
    limit = RateLimit(requests_per_second=1, burst=1)
    service.publish(keys=keys, limit=limit)
    assert (await service.call(OLD)).status_code == 200
    service.publish(revision=2, keys=keys, limit=limit, scopes=["items:write", "items:read"])
    assert (await service.call(NEW)).status_code == 429
    service.publish(revision=3, keys=keys, limit=RateLimit(requests_per_second=1, burst=2))
    assert (await service.call(NEW)).status_code == 200


async def test_items_are_charged_after_the_call(service: GuardedService) -> None:
    service.publish(limit=RateLimit(requests_per_second=100, burst=100, items_per_second=10))
    assert (await service.call(OLD, items="100")).status_code == 200
    refused = await service.call(OLD)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert refused.headers["ratelimit"] == '"requests";r=99;t=1, "items";r=0;t=10'
    service.clock.advance(timedelta(seconds=9.2))
    assert (await service.call(OLD)).status_code == 200


async def test_refusals_of_one_kind_are_published_once_with_their_count(service: GuardedService) -> None:
    service.publish(regions=["us"], limit=RateLimit(requests_per_second=1, burst=1))
    for n in range(40):
        await service.call(ids.new_api_key("test"), thing=f"secret-{n}")
    service.publish(
        name="far", regions=["mars"], keys=[ClientKey(sha256=ids.hash_api_key(NEW), created_at=to_text(START))]
    )
    assert (await service.call(NEW)).status_code == 403
    await service.call()
    await service.call("nonsense")
    assert (await service.call(OLD)).status_code == 200
    service.clock.advance(timedelta(milliseconds=100))
    for _ in range(3):
        assert (await service.call(OLD)).status_code == 429
    await service.log.publish()
    found = {refusal.reason: refusal for refusal in service.topic.refusals()}
    assert {reason: refusal.count for reason, refusal in found.items()} == {
        "unknown-key": 40,
        "no-key": 1,
        "mistyped-key": 1,
        "region-not-allowed": 1,
        "rate-limited": 3,
    }
    assert {refusal.route for refusal in found.values()} == {"/v1/things/{thing}"}
    limited = found["rate-limited"]
    assert (limited.client, limited.key, limited.status) == ("shop", ids.hash_api_key(OLD)[:12], 429)
    assert limited.since == to_text(START + timedelta(milliseconds=100))
    assert {record.topic for record in service.topic.records} == {"piepowder.access.eu", "piepowder.access.us"}
    assert all(key not in str(service.topic.records) for key in (ADMIN, OLD, "secret"))
    sent = len(service.topic.records)
    await service.log.publish()
    assert len(service.topic.records) == sent


async def test_while_kafka_does_not_respond_refusals_are_kept_within_bounds_and_published_later(
    service: GuardedService,
) -> None:
    service.topic.unreachable = True
    for round_ in range(3):
        for n in range(1500):
            client = Principal(f"c{round_}-{n}", SCOPES)
            service.log.refused(
                reason="missing-scope", principal=client, key="", method="GET", route="/v1/x", status=403, count=1
            )
        await service.log.publish()
    service.topic.unreachable = False
    for _ in range(4):
        await service.log.publish()
    assert sum(refusal.count for refusal in service.topic.refusals()) == 4500
    assert len(service.topic.records) <= 2100
    assert len({dict(record.headers)["ce_id"] for record in service.topic.records}) == len(service.topic.records)


async def test_an_event_without_acknowledgement_is_sent_again_unchanged(service: GuardedService) -> None:
    await service.call()
    service.topic.unacknowledged = True
    await service.log.publish()
    await service.call()
    service.topic.unacknowledged = False
    await service.log.publish()
    first, again, second = [(dict(record.headers)["ce_id"], record.value) for record in service.topic.records]
    assert first == again
    assert first[0] != second[0]


async def test_used_keys_are_reported_once_with_their_count_and_last_use(service: GuardedService) -> None:
    service.publish()
    await service.call(OLD)
    service.clock.advance(timedelta(seconds=20))
    await service.call(OLD)
    await service.call(ADMIN)
    service.publish(revision=2, scopes=["items:write", "items:read"])
    service.clock.advance(timedelta(seconds=10))
    uses = {use.client: use for _, use in service.authenticator.uses()}
    assert uses["shop"].calls == 2
    assert uses["shop"].last_used_at == to_text(START + timedelta(seconds=20))
    assert uses["admin"].calls == 1
    assert service.authenticator.uses() == []


async def test_a_client_in_the_file_may_have_an_expiry_and_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    entry = {
        "name": "job",
        "key_sha256": ids.hash_api_key(OLD),
        "scopes": ["items:write"],
        "expires_at": "2026-05-01T09:31:00Z",
        "limit": {"requests_per_second": 1, "burst": 3},
    }
    path.write_bytes(msgspec.json.encode([entry]))
    [client] = read_clients_file(path)
    assert client.limit == RateLimit(requests_per_second=1, burst=3)
    assert client.regions == {"*"}
    assert client.expires_at == "2026-05-01T09:31:00Z"


@pytest.mark.parametrize(
    "text",
    ["[{", '[{"name":"a"}]', '[{"name":"a","key_sha256":"00","scopes":[]}]', '[{"nam":1}]'],
)
async def test_an_invalid_or_missing_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clients.json"
    path.write_text(text)
    with pytest.raises(Fatal, match=r"clients\.json"):
        read_clients_file(path)
    with pytest.raises(Fatal, match="nowhere"):
        read_clients_file(tmp_path / "nowhere.json")


def test_the_error_of_an_invalid_limit_names_the_file_the_client_and_the_field(tmp_path: Path) -> None:
    limit = {"requests_per_second": 1, "burst": 3, "items_per_second": 5e-324}
    entry = {"name": "job", "key_sha256": ids.hash_api_key(OLD), "scopes": [], "limit": limit}
    (tmp_path / "clients.json").write_bytes(msgspec.json.encode([entry]))
    with pytest.raises(Fatal, match=r"clients\.json: client 'job': limit.items_per_second: expected 0"):
        read_clients_file(tmp_path / "clients.json")
