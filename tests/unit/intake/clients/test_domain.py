"""The rules of clients: changes, keys, events, and the granting of rights."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from services.intake.clients import domain
from services.intake.clients.api import patch_of
from services.intake.clients.domain import ApiKeyRecord, ClientPatch, ClientRecord
from services.intake.clients.models import ChangeBody, client_view
from shared.auth import clients
from shared.auth.clients import KEPT_KEYS, OF_PLATFORMS, SCOPES
from shared.auth.principal import Principal as Caller
from shared.contracts import ids
from shared.contracts.events import RateLimit
from shared.validation.faults import InputRejected

NOW = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def client(**change: Any) -> ClientRecord:
    valid: dict[str, Any] = {
        "name": "shop",
        "description": "",
        "scopes": frozenset({"items:write"}),
        "regions": frozenset({"eu"}),
        "platforms": frozenset({"*"}),
        "limit": None,
        "revision": 1,
        "created_at": NOW,
        "changed_at": NOW,
    }
    return ClientRecord(**(valid | change))


def key(n: int, **times: Any) -> ApiKeyRecord:
    return ApiKeyRecord(
        sha256=ids.content_hash(str(n).encode()), created_at=times.pop("created_at", NOW + n * DAY), **times
    )


def by(*scopes: str, regions: tuple[str, ...] = ("*",)) -> Caller:
    return Caller("lead", frozenset(scopes), frozenset(regions))


def test_revisions_derive_from_the_clock_and_always_increase() -> None:
    first = domain.changed(client(), ClientPatch(description="a"), NOW)
    assert first.revision == int(NOW.timestamp() * 1000)
    second = domain.changed(first, ClientPatch(description="b"), NOW - DAY)
    assert second.revision == first.revision + 1


def test_a_change_without_a_difference_returns_the_same_client() -> None:
    before = client(limit=RateLimit(requests_per_second=1, burst=1))
    assert domain.changed(before, ClientPatch(), NOW) is before
    assert domain.changed(before, ClientPatch(scopes=frozenset({"items:write"}), state="active"), NOW) is before
    assert domain.changed(before, ClientPatch(limit=None), NOW).limit is None


def test_an_expired_or_revoked_key_allows_another_key() -> None:
    two = client(keys=(key(1), key(2)))
    with pytest.raises(InputRejected, match="has 2 live keys") as rejection:
        domain.with_key(two, key(3), None, NOW)
    assert rejection.value.status == 409
    ended = client(keys=(key(1, expires_at=NOW), key(2)))
    assert len(domain.with_key(ended, key(3), None, NOW).keys) == 3
    revoked = domain.without_key(two, key(1).key_id, NOW)
    assert len(domain.with_key(revoked, key(3), None, NOW).keys) == 3


def test_a_new_key_shortens_but_never_extends_the_expiry_of_the_others() -> None:
    for expires_at, then in ((None, NOW + DAY), (NOW + 3 * DAY, NOW + DAY), (NOW + timedelta(hours=1),) * 2):
        old = key(1) if expires_at is None else key(1, expires_at=expires_at)
        after = domain.with_key(client(keys=(old,)), key(2), NOW + DAY, NOW)
        assert [one.expires_at for one in after.keys] == [then, None]
    gone = key(1, revoked_at=NOW)
    assert domain.with_key(client(keys=(gone,)), key(2), NOW + DAY, NOW).keys[0] == gone


def test_only_a_key_of_the_client_can_be_revoked_and_only_once() -> None:
    revoked = domain.without_key(client(keys=(key(1), key(2))), key(1).key_id, NOW)
    assert [one.state(NOW) for one in revoked.keys] == ["revoked", "live"]
    assert domain.without_key(revoked, key(1).key_id, NOW + DAY) is revoked
    with pytest.raises(InputRejected, match="has no key") as rejection:
        domain.without_key(revoked, key(3).key_id, NOW)
    assert rejection.value.status == 404


@pytest.mark.parametrize("ended", ["expires_at", "revoked_at"])
def test_the_event_always_has_the_live_keys(ended: str) -> None:
    ended_keys = [key(n, **{ended: NOW}) for n in range(1, 2 * KEPT_KEYS)]
    live = key(0)
    event = domain.to_event(client(keys=(live, *ended_keys), changed_at=NOW + 90 * DAY), "changed", "lead")
    assert len(event.keys) == KEPT_KEYS
    assert event.keys[0].sha256 == live.sha256
    assert event.keys[-1].sha256 == ended_keys[-1].sha256
    assert clients.faults(event) == []


def test_the_event_has_neither_description_nor_last_use() -> None:
    event = domain.to_event(client(description="Jane's", keys=(key(1, last_used_at=NOW),)), "created", "person-1")
    text = msgspec.json.encode(event).decode()
    assert "Jane" not in text
    assert "last_used" not in text


@pytest.mark.parametrize(
    ("caller", "after", "before", "pointer"),
    [
        (by("items:write"), client(), None, None),
        (by("items:read"), client(), None, "/scopes"),
        (by("items:read"), client(), client(), None),
        (by("items:read"), client(scopes=frozenset()), client(), None),
        (by("items:read"), client(scopes=frozenset({"items:write", "audit:read"})), client(), "/scopes"),
        (by("items:write", regions=("us",)), client(), None, "/regions"),
        (by("items:write", regions=("eu", "us")), client(), None, None),
        (by("items:write", regions=("eu",)), client(regions=frozenset({"eu", "us"})), client(), "/regions"),
        (by("items:write", regions=("eu",)), client(regions=frozenset({"*"})), client(), "/regions"),
        (by("items:write", regions=()), client(regions=frozenset({"*"})), None, "/regions"),
    ],
)
def test_rights_that_a_client_does_not_have_cannot_be_granted_but_can_be_removed(
    caller: Caller, after: ClientRecord, before: ClientRecord | None, pointer: str | None
) -> None:
    if pointer is None:
        domain.check_grant(after, before, caller)
        return
    with pytest.raises(InputRejected) as rejection:
        domain.check_grant(after, before, caller)
    assert (rejection.value.status, rejection.value.faults[0].pointer) == (403, pointer)


LIMIT = RateLimit(requests_per_second=10, burst=20, items_per_second=5)


@pytest.mark.parametrize(
    ("scopes", "platforms", "beyond"),
    [
        (SCOPES, {"*"}, None),
        (OF_PLATFORMS, {"shop", "fair"}, None),
        ({"items:write", "audit:read"}, {"shop", "*"}, None),
        ({"items:write", "reviews:read", "audit:read"}, {"shop"}, "audit:read, reviews:read"),
    ],
)
def test_a_client_of_some_platforms_cannot_have_scopes_of_all_platforms(
    scopes: set[str], platforms: set[str], beyond: str | None
) -> None:
    some = client(scopes=frozenset(scopes), platforms=frozenset(platforms))
    if beyond is None:
        domain.check_platforms(some)
        return
    with pytest.raises(InputRejected, match=f"^{beyond} concern every platform") as rejection:
        domain.check_platforms(some)
    assert (rejection.value.status, rejection.value.faults[0].pointer) == (422, "/platforms")
    with pytest.raises(InputRejected) as rejection:
        domain.check_platforms(some, ClientPatch(scopes=some.scopes))
    assert rejection.value.faults[0].pointer == "/scopes"
    # a client with such scopes can still be disabled
    domain.check_platforms(some, ClientPatch(state="disabled", limit=LIMIT))


@pytest.mark.parametrize(
    ("before", "patch", "extends"),
    [
        ({"state": "disabled"}, ClientPatch(state="active"), True),
        ({"state": "disabled"}, ClientPatch(description="asleep"), False),
        ({}, ClientPatch(state="disabled"), False),
        ({}, ClientPatch(state="disabled", limit=LIMIT), False),
        ({"limit": LIMIT}, ClientPatch(limit=None), True),
        ({"limit": LIMIT}, ClientPatch(limit=msgspec.structs.replace(LIMIT, requests_per_second=11)), True),
        ({"limit": LIMIT}, ClientPatch(limit=msgspec.structs.replace(LIMIT, burst=21)), True),
        ({"limit": LIMIT}, ClientPatch(limit=msgspec.structs.replace(LIMIT, items_per_second=6)), True),
        ({"limit": LIMIT}, ClientPatch(limit=msgspec.structs.replace(LIMIT, items_per_second=0)), True),
        ({"limit": LIMIT}, ClientPatch(limit=msgspec.structs.replace(LIMIT, items_per_second=4, burst=1)), False),
        ({"limit": LIMIT, "state": "disabled"}, ClientPatch(limit=None), True),
        ({"limit": LIMIT}, ClientPatch(state="disabled", limit=LIMIT), False),
        ({"regions": frozenset({"us"})}, ClientPatch(regions=frozenset({"eu"})), True),
        ({"regions": frozenset({"eu", "us"})}, ClientPatch(regions=frozenset({"eu"})), False),
        ({"platforms": frozenset({"shop"})}, ClientPatch(platforms=frozenset({"shop", "fair"})), True),
        ({"platforms": frozenset({"shop"})}, ClientPatch(platforms=frozenset({"*"})), True),
        ({}, ClientPatch(platforms=frozenset({"shop"})), False),
    ],
)
def test_extending_a_client_requires_all_rights_of_the_client(
    before: dict[str, Any], patch: ClientPatch, *, extends: bool
) -> None:
    was = client(**before)
    after = domain.changed(was, patch, NOW)
    domain.check_grant(after, was, by("items:write", regions=("eu",)))
    if not extends:
        domain.check_grant(after, was, by(regions=("eu",)))
        return
    with pytest.raises(InputRejected) as rejection:
        domain.check_grant(after, was, by("clients:write"))
    assert (rejection.value.status, rejection.value.faults[0].pointer) == (403, "/scopes")
    less = domain.changed(was, msgspec.structs.replace(patch, scopes=frozenset()), NOW)
    domain.check_grant(less, was, by("clients:write"))


def test_the_body_of_a_change_has_no_defaults_that_a_generated_client_would_send() -> None:
    members = ChangeBody.model_json_schema()["properties"]
    assert {name for name, schema in members.items() if schema.get("default") is not None} == set()
    assert "default" not in members["limit"]
    assert patch_of(ChangeBody.model_validate({"state": "disabled"})) == ClientPatch(state="disabled")
    assert patch_of(ChangeBody.model_validate({"limit": None})) == ClientPatch(limit=None)


def test_the_view_of_a_client_has_sorted_rights_and_times_as_text() -> None:
    limit = RateLimit(requests_per_second=1, burst=2)
    rights = frozenset({"items:write", "items:read"})
    viewed = client_view(client(scopes=rights, limit=limit, keys=(key(1, expires_at=NOW),)), NOW + DAY).model_dump()
    assert viewed["scopes"] == ["items:read", "items:write"]
    assert viewed["limit"] == {"requests_per_second": 1, "burst": 2, "items_per_second": 0}
    assert (viewed["created_at"], viewed["revision"]) == ("2026-05-01T09:30:00.000Z", 1)
    [shown] = viewed["keys"]
    assert (shown["key_id"], shown["state"], shown["revoked_at"]) == (key(1).key_id, "expired", None)
    assert (shown["created_at"], shown["expires_at"]) == ("2026-05-02T09:30:00.000Z", "2026-05-01T09:30:00.000Z")
