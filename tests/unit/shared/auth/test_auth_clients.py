"""Who calls is known from a file and from what is told; what ends a key, what a limit does, what is told of both."""

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
from shared.http.problems import Problem
from shared.kafka.producer import Record
from shared.runtime.clock import ManualClock, to_text
from shared.runtime.errors import Fatal, Poison, Transient
from shared.runtime.readiness import Readiness

START = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
ADMIN, OLD, NEW = (ids.new_api_key("test") for _ in range(3))
SCOPES = frozenset({"items:write"})


class Topic:
    """A producer that keeps what it is sent; when told, it is away, or keeps it and does not say so."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.away = False
        self.silent = False

    async def send(self, records: Sequence[Record]) -> None:
        if self.away:
            raise Transient("Kafka is away.")
        self.records += records
        if self.silent:
            raise Transient("Kafka did not acknowledge.")

    def refusals(self) -> list[AccessRefused]:
        events = [decode(record.headers, record.key, record.value) for record in self.records]
        return [event.data for event in events if event.attributes.type == ACCESS_REFUSED]


class Door:
    """An application with one route behind an authenticator that follows what is told."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.topic = Topic()
        self.log = AccessLog(
            service="test",
            source="piepowder/test",
            producers={"eu": self.topic, "us": self.topic},
            clock=self.clock,
        )
        self.knows = Authenticator(
            [ClientEntry("admin", ids.hash_api_key(ADMIN), SCOPES)],
            clock=self.clock,
            regions=["eu", "us"],
            refusals=self.log,
            follows=True,
        )
        self.app: FastAPI = create_app("test", "For tests.", Readiness("test"))

        async def guarded(request: Request) -> Response:
            client = self.knows.principal(request, "items:write")
            charge(request, int(request.query_params.get("items", "0")))
            return Response(client.name)

        self.app.add_route("/v1/things/{thing}", guarded)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    async def call(self, key: str | None = None, thing: str = "1", **parameters: str) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.http.get(f"/v1/things/{thing}", params=parameters, headers=headers)

    def tell(self, *, subject: str | None = None, **fields: Any) -> None:
        self.knows.apply(told(subject=subject, **fields))


def told(*, subject: str | None = None, **fields: Any) -> Event[ClientChanged]:
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
async def door() -> AsyncIterator[Door]:
    door = Door()
    door.knows.caught_up()
    async with door.http:
        yield door


async def test_until_the_topic_is_read_only_the_files_keys_open_and_nobody_is_called_unknown() -> None:
    door = Door()
    door.tell()
    assert (await door.call(ADMIN)).status_code == 200
    for key in (OLD, NEW):
        answer = await door.call(key)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert (await door.call("nonsense")).status_code == 401
    door.knows.caught_up()
    assert (await door.call(OLD)).status_code == 200
    assert (await door.call(NEW)).status_code == 401


async def test_two_keys_open_while_they_change_places(door: Door) -> None:
    old = ClientKey(sha256=ids.hash_api_key(OLD), created_at=to_text(START))
    new = ClientKey(sha256=ids.hash_api_key(NEW), created_at=to_text(START))
    door.tell(keys=[old, new])
    assert [(await door.call(key)).text for key in (OLD, NEW)] == ["shop", "shop"]
    door.tell(revision=2, keys=[msgspec.structs.replace(old, revoked_at=to_text(START)), new])
    assert [(await door.call(key)).status_code for key in (OLD, NEW)] == [401, 200]
    assert "revoked" in (await door.call(OLD)).json()["detail"]


async def test_a_key_ends_at_its_time_give_or_take_the_clocks(door: Door) -> None:
    ends = to_text(START + timedelta(minutes=1))
    door.tell(keys=[ClientKey(sha256=ids.hash_api_key(OLD), created_at=to_text(START), expires_at=ends)])
    door.clock.advance(timedelta(seconds=64))
    assert (await door.call(OLD)).status_code == 200
    door.clock.advance(timedelta(seconds=2))
    answer = await door.call(OLD)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert "expired" in answer.json()["detail"]


@pytest.mark.parametrize("state", ["disabled", "something newer"])
async def test_a_client_that_is_not_active_opens_nothing(door: Door, state: str) -> None:
    door.tell(state=state)
    assert "disabled" in (await door.call(OLD)).json()["detail"]


async def test_scopes_that_a_client_of_some_platforms_cannot_have_open_nothing_and_its_key_can_be_ended(
    door: Door,
) -> None:
    wide: dict[str, Any] = {"scopes": ["items:write", "audit:read", "newer:things"], "platforms": ["shop"]}
    door.tell(**wide)
    assert (await door.call(OLD)).status_code == 200
    request = Request({"type": "http", "headers": [(b"authorization", f"Bearer {OLD}".encode())]})
    assert door.knows.principal(request, "items:write").scopes == {"items:write"}
    with pytest.raises(Problem):
        door.knows.principal(request, "audit:read")
    key = ClientKey(sha256=ids.hash_api_key(OLD), created_at=to_text(START), revoked_at=to_text(START))
    door.tell(**wide, revision=2, keys=[key])
    assert (await door.call(OLD)).status_code == 401


async def test_what_was_told_before_does_not_come_back(door: Door) -> None:
    door.tell(revision=7, state="disabled")
    door.tell(revision=3)
    door.tell(revision=7)
    assert (await door.call(OLD)).status_code == 401


async def test_who_may_act_in_no_region_of_the_service_is_refused_at_the_door(door: Door) -> None:
    door.tell(regions=["mars"])
    answer = await door.call(OLD)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:piepowder:problem:region-not-allowed")


async def test_the_files_clients_go_before_those_that_are_told(door: Door) -> None:
    door.tell(name="admin")
    assert (await door.call(OLD)).status_code == 401
    door.tell(name="admin", revision=2, state="disabled")
    assert (await door.call(ADMIN)).text == "admin"


async def test_a_key_that_is_told_of_no_more_opens_nothing(door: Door) -> None:
    door.tell()
    assert (await door.call(OLD)).status_code == 200
    door.tell(revision=2, keys=[])
    assert (await door.call(OLD)).status_code == 401


@pytest.mark.parametrize(
    ("fields", "says"),
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
async def test_a_record_that_cannot_be_right_is_refused_and_changes_nothing(
    door: Door, fields: dict[str, Any], says: str
) -> None:
    door.tell()
    with pytest.raises(Poison, match=says):
        door.tell(**({"revision": 2} | fields))
    assert (await door.call(OLD)).text == "shop"
    assert (await door.call(ADMIN)).text == "admin"


async def test_above_its_limit_a_client_waits_and_is_told_how_long(door: Door) -> None:
    door.tell(limit=RateLimit(requests_per_second=0.5, burst=2))
    first = await door.call(OLD)
    assert first.headers["ratelimit-policy"] == '"requests";q=2;w=4'
    assert first.headers["ratelimit"] == '"requests";r=1;t=2'
    assert (await door.call(OLD)).status_code == 200
    refused = await door.call(OLD)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert refused.json()["type"] == "urn:piepowder:problem:rate-limited"
    assert refused.headers["ratelimit"] == '"requests";r=0;t=4'
    assert (await door.call(ADMIN)).headers.get("ratelimit") is None
    door.clock.advance(timedelta(seconds=2))
    assert (await door.call(OLD)).status_code == 200
    assert (await door.call(OLD)).status_code == 429


async def test_both_keys_of_a_client_share_its_limit_and_a_change_elsewhere_does_not_refill_it(door: Door) -> None:
    keys = [ClientKey(sha256=ids.hash_api_key(key), created_at=to_text(START)) for key in (OLD, NEW)]
    limit = RateLimit(requests_per_second=1, burst=1)
    door.tell(keys=keys, limit=limit)
    assert (await door.call(OLD)).status_code == 200
    door.tell(revision=2, keys=keys, limit=limit, scopes=["items:write", "items:read"])
    assert (await door.call(NEW)).status_code == 429
    door.tell(revision=3, keys=keys, limit=RateLimit(requests_per_second=1, burst=2))
    assert (await door.call(NEW)).status_code == 200


async def test_items_are_paid_for_afterwards(door: Door) -> None:
    door.tell(limit=RateLimit(requests_per_second=100, burst=100, items_per_second=10))
    assert (await door.call(OLD, items="100")).status_code == 200
    refused = await door.call(OLD)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert refused.headers["ratelimit"] == '"requests";r=99;t=1, "items";r=0;t=10'
    door.clock.advance(timedelta(seconds=9.2))
    assert (await door.call(OLD)).status_code == 200


async def test_refusals_are_told_once_for_each_kind_with_their_count(door: Door) -> None:
    door.tell(regions=["us"], limit=RateLimit(requests_per_second=1, burst=1))
    for n in range(40):
        await door.call(ids.new_api_key("test"), thing=f"secret-{n}")
    door.tell(name="far", regions=["mars"], keys=[ClientKey(sha256=ids.hash_api_key(NEW), created_at=to_text(START))])
    assert (await door.call(NEW)).status_code == 403
    await door.call()
    await door.call("nonsense")
    assert (await door.call(OLD)).status_code == 200
    door.clock.advance(timedelta(milliseconds=100))
    for _ in range(3):
        assert (await door.call(OLD)).status_code == 429
    await door.log.publish()
    found = {refusal.reason: refusal for refusal in door.topic.refusals()}
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
    assert {record.topic for record in door.topic.records} == {"piepowder.access.eu", "piepowder.access.us"}
    assert all(key not in str(door.topic.records) for key in (ADMIN, OLD, "secret"))
    sent = len(door.topic.records)
    await door.log.publish()
    assert len(door.topic.records) == sent


async def test_while_kafka_is_away_refusals_are_kept_within_bounds_and_told_afterwards(door: Door) -> None:
    door.topic.away = True
    for round_ in range(3):
        for n in range(1500):
            client = Principal(f"c{round_}-{n}", SCOPES)
            door.log.refused(
                reason="missing-scope", principal=client, key="", method="GET", route="/v1/x", status=403, count=1
            )
        await door.log.publish()
    door.topic.away = False
    for _ in range(4):
        await door.log.publish()
    assert sum(refusal.count for refusal in door.topic.refusals()) == 4500
    assert len(door.topic.records) <= 2100
    assert len({dict(record.headers)["ce_id"] for record in door.topic.records}) == len(door.topic.records)


async def test_the_same_event_is_sent_again_when_kafka_did_not_say_that_it_has_it(door: Door) -> None:
    await door.call()
    door.topic.silent = True
    await door.log.publish()
    await door.call()
    door.topic.silent = False
    await door.log.publish()
    first, again, second = [(dict(record.headers)["ce_id"], record.value) for record in door.topic.records]
    assert first == again
    assert first[0] != second[0]


async def test_used_keys_are_told_once_with_their_count_and_their_last_use(door: Door) -> None:
    door.tell()
    await door.call(OLD)
    door.clock.advance(timedelta(seconds=20))
    await door.call(OLD)
    await door.call(ADMIN)
    door.tell(revision=2, scopes=["items:write", "items:read"])
    door.clock.advance(timedelta(seconds=10))
    uses = {use.client: use for _, use in door.knows.uses()}
    assert uses["shop"].calls == 2
    assert uses["shop"].last_used_at == to_text(START + timedelta(seconds=20))
    assert uses["admin"].calls == 1
    assert door.knows.uses() == []


async def test_a_client_in_the_file_may_have_an_end_and_a_limit(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "text",
    ["[{", '[{"name":"a"}]', '[{"name":"a","key_sha256":"00","scopes":[]}]', '[{"nam":1}]'],
)
async def test_a_file_that_cannot_be_right_is_named_with_what_is_wrong(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clients.json"
    path.write_text(text)
    with pytest.raises(Fatal, match=r"clients\.json"):
        read_clients_file(path)
    with pytest.raises(Fatal, match="nowhere"):
        read_clients_file(tmp_path / "nowhere.json")


def test_a_file_with_a_limit_that_cannot_be_held_is_named_with_the_client_and_the_field(tmp_path: Path) -> None:
    limit = {"requests_per_second": 1, "burst": 3, "items_per_second": 5e-324}
    entry = {"name": "job", "key_sha256": ids.hash_api_key(OLD), "scopes": [], "limit": limit}
    (tmp_path / "clients.json").write_bytes(msgspec.json.encode([entry]))
    with pytest.raises(Fatal, match=r"clients\.json: client 'job': limit.items_per_second: expected 0"):
        read_clients_file(tmp_path / "clients.json")
