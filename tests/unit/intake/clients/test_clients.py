"""A client's life: what a change makes of it, what is told of it, and who may change it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from services.intake.clients import domain
from services.intake.clients.api import ChangeBody, _patch
from services.intake.clients.domain import Client, Key, Patch, Refused
from shared.auth import clients
from shared.auth.clients import KEPT_KEYS, OF_PLATFORMS, SCOPES
from shared.auth.principal import Principal
from shared.contracts import ids
from shared.contracts.events import RateLimit

NOW = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def client(**change: Any) -> Client:
    sound: dict[str, Any] = {
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
    return Client(**(sound | change))


def key(n: int, **times: Any) -> Key:
    return Key(sha256=ids.content_hash(str(n).encode()), created_at=times.pop("created_at", NOW + n * DAY), **times)


def by(*scopes: str, regions: tuple[str, ...] = ("*",)) -> Principal:
    return Principal("lead", frozenset(scopes), frozenset(regions))


def test_revisions_go_by_the_clock_and_grow_even_when_it_does_not() -> None:
    first = domain.changed(client(), Patch(description="a"), NOW)
    assert first.revision == int(NOW.timestamp() * 1000)
    second = domain.changed(first, Patch(description="b"), NOW - DAY)
    assert second.revision == first.revision + 1


def test_what_changes_nothing_is_no_change() -> None:
    before = client(limit=RateLimit(requests_per_second=1, burst=1))
    assert domain.changed(before, Patch(), NOW) is before
    assert domain.changed(before, Patch(scopes=frozenset({"items:write"}), state="active"), NOW) is before
    assert domain.changed(before, Patch(limit=None), NOW).limit is None


def test_a_key_that_has_ended_makes_room_for_another() -> None:
    two = client(keys=(key(1), key(2)))
    with pytest.raises(Refused, match="has 2 living keys") as refused:
        domain.with_key(two, key(3), None, NOW)
    assert refused.value.status == 409
    ended = client(keys=(key(1, expires_at=NOW), key(2)))
    assert len(domain.with_key(ended, key(3), None, NOW).keys) == 3
    revoked = domain.without_key(two, key(1).key_id, NOW)
    assert len(domain.with_key(revoked, key(3), None, NOW).keys) == 3


def test_a_successor_ends_the_others_at_a_time_but_gives_none_a_longer_life() -> None:
    for expires_at, then in ((None, NOW + DAY), (NOW + 3 * DAY, NOW + DAY), (NOW + timedelta(hours=1),) * 2):
        old = key(1) if expires_at is None else key(1, expires_at=expires_at)
        after = domain.with_key(client(keys=(old,)), key(2), NOW + DAY, NOW)
        assert [one.expires_at for one in after.keys] == [then, None]
    gone = key(1, revoked_at=NOW)
    assert domain.with_key(client(keys=(gone,)), key(2), NOW + DAY, NOW).keys[0] == gone


def test_a_key_is_revoked_once_and_only_where_it_is() -> None:
    revoked = domain.without_key(client(keys=(key(1), key(2))), key(1).key_id, NOW)
    assert [one.state(NOW) for one in revoked.keys] == ["revoked", "live"]
    assert domain.without_key(revoked, key(1).key_id, NOW + DAY) is revoked
    with pytest.raises(Refused, match="has no key") as refused:
        domain.without_key(revoked, key(3).key_id, NOW)
    assert refused.value.status == 404


@pytest.mark.parametrize("ended", ["expires_at", "revoked_at"])
def test_of_many_keys_the_living_are_always_told(ended: str) -> None:
    dead = [key(n, **{ended: NOW}) for n in range(1, 2 * KEPT_KEYS)]
    living = key(0)
    told = domain.told(client(keys=(living, *dead), changed_at=NOW + 90 * DAY), "changed", "lead")
    assert len(told.keys) == KEPT_KEYS
    assert told.keys[0].sha256 == living.sha256
    assert told.keys[-1].sha256 == dead[-1].sha256
    assert clients.faults(told) == []


def test_what_is_told_has_neither_description_nor_last_use() -> None:
    told = domain.told(client(description="Jane's", keys=(key(1, last_used_at=NOW),)), "created", "person-1")
    text = msgspec.json.encode(told).decode()
    assert "Jane" not in text
    assert "last_used" not in text


@pytest.mark.parametrize(
    ("giver", "after", "before", "pointer"),
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
def test_nobody_gives_what_they_lack_and_anybody_may_take_away(
    giver: Principal, after: Client, before: Client | None, pointer: str | None
) -> None:
    if pointer is None:
        domain.check_grant(after, before, giver)
        return
    with pytest.raises(Refused) as refused:
        domain.check_grant(after, before, giver)
    assert (refused.value.status, refused.value.pointer) == (403, pointer)


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
def test_a_client_of_some_platforms_does_nothing_that_is_about_all_of_them(
    scopes: set[str], platforms: set[str], beyond: str | None
) -> None:
    some = client(scopes=frozenset(scopes), platforms=frozenset(platforms))
    if beyond is None:
        domain.check_platforms(some)
        return
    with pytest.raises(Refused, match=f"^{beyond} concern every platform") as refused:
        domain.check_platforms(some)
    assert (refused.value.status, refused.value.pointer) == (422, "/platforms")
    with pytest.raises(Refused) as refused:
        domain.check_platforms(some, Patch(scopes=some.scopes))
    assert refused.value.pointer == "/scopes"
    domain.check_platforms(some, Patch(state="disabled", limit=LIMIT))  # whatever it is, it can be ended


@pytest.mark.parametrize(
    ("before", "patch", "gives"),
    [
        ({"state": "disabled"}, Patch(state="active"), True),
        ({"state": "disabled"}, Patch(description="asleep"), False),
        ({}, Patch(state="disabled"), False),
        ({}, Patch(state="disabled", limit=LIMIT), False),
        ({"limit": LIMIT}, Patch(limit=None), True),
        ({"limit": LIMIT}, Patch(limit=msgspec.structs.replace(LIMIT, requests_per_second=11)), True),
        ({"limit": LIMIT}, Patch(limit=msgspec.structs.replace(LIMIT, burst=21)), True),
        ({"limit": LIMIT}, Patch(limit=msgspec.structs.replace(LIMIT, items_per_second=6)), True),
        ({"limit": LIMIT}, Patch(limit=msgspec.structs.replace(LIMIT, items_per_second=0)), True),
        ({"limit": LIMIT}, Patch(limit=msgspec.structs.replace(LIMIT, items_per_second=4, burst=1)), False),
        ({"limit": LIMIT, "state": "disabled"}, Patch(limit=None), True),
        ({"limit": LIMIT}, Patch(state="disabled", limit=LIMIT), False),
        ({"regions": frozenset({"us"})}, Patch(regions=frozenset({"eu"})), True),
        ({"regions": frozenset({"eu", "us"})}, Patch(regions=frozenset({"eu"})), False),
        ({"platforms": frozenset({"shop"})}, Patch(platforms=frozenset({"shop", "fair"})), True),
        ({"platforms": frozenset({"shop"})}, Patch(platforms=frozenset({"*"})), True),
        ({}, Patch(platforms=frozenset({"shop"})), False),
    ],
)
def test_to_let_a_client_do_more_takes_the_rights_that_giving_it_takes(
    before: dict[str, Any], patch: Patch, *, gives: bool
) -> None:
    was = client(**before)
    after = domain.changed(was, patch, NOW)
    domain.check_grant(after, was, by("items:write", regions=("eu",)))
    if not gives:
        domain.check_grant(after, was, by(regions=("eu",)))
        return
    with pytest.raises(Refused) as refused:
        domain.check_grant(after, was, by("clients:write"))
    assert (refused.value.status, refused.value.pointer) == (403, "/scopes")
    less = domain.changed(was, msgspec.structs.replace(patch, scopes=frozenset()), NOW)
    domain.check_grant(less, was, by("clients:write"))


def test_a_change_has_no_defaults_that_a_generated_client_would_send() -> None:
    members = ChangeBody.model_json_schema()["properties"]
    assert {name for name, schema in members.items() if schema.get("default") is not None} == set()
    assert "default" not in members["limit"]
    assert _patch(ChangeBody.model_validate({"state": "disabled"})) == Patch(state="disabled")
    assert _patch(ChangeBody.model_validate({"limit": None})) == Patch(limit=None)
