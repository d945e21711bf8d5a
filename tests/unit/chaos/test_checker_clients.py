"""The checker finds what breaks a promise about clients and their keys: each is planted in a history that is sound."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import Call, ClientRow, KeyRow
from tests.support.chaos_history import Recording, drop, is_of, titles


class Calling(Recording):
    """A recording in which clients come, post with keys of their own, and go; `_keys` are hashes by client and key."""

    def __init__(self) -> None:
        super().__init__()
        self._hashes: dict[str, dict[str, str]] = {}
        self._revoked: set[str] = set()

    def client(self, name: str, *regions: str, platform: str = "*") -> str:
        """A client, made and told."""
        self._hashes[name] = {}
        self.history.intake.clients.append(ClientRow(name, "active", 0, regions or ("eu",), (platform,)))
        self._tell(name, "created")
        facts = {"name": name, "regions": list(regions or ("eu",)), "platforms": [platform]}
        self.call("client.create", facts, 201, {"state": "active", "in_force": True})
        return name

    def key(self, name: str, call: str, *, in_force: bool = True) -> str:
        """A key, made under an Idempotency-Key, told and answered."""
        sha256 = (derived(name, call).replace("-", "") * 2)[:64]
        self._hashes[name][sha256[:12]] = sha256
        made_with = derived("client-key", "local", call)
        self.history.intake.keys.append(KeyRow(name, sha256[:12], revoked=False, made_with=made_with))
        self._tell(name, "key_added")
        self.call("client.key", {"name": name, "key": call}, 201, {"key_id": sha256[:12], "in_force": in_force})
        return sha256[:12]

    def revoke(self, name: str, key_id: str, *, in_force: bool = True) -> Call:
        """A key, ended."""
        keys = self.history.intake.keys
        n = next(n for n, key in enumerate(keys) if key.key_id == key_id)
        if not keys[n].revoked:
            keys[n] = keys[n]._replace(revoked=True)
            self._revoked.add(key_id)
            self._tell(name, "key_revoked")
        return self.call("client.revoke", {"name": name, "key_id": key_id}, 200, {"in_force": in_force})

    def change(self, name: str, state: str) -> Call:
        """A client, shut out or let in."""
        self.set_client(self.row_of(name)._replace(state=state))
        self._tell(name, "disabled" if state == "disabled" else "enabled")
        return self.call("client.change", {"name": name, "state": state}, 200, {"in_force": True})

    def post_by(self, name: str, key_id: str, subject: str, status: int | None = 202, market: str = "DE") -> str:
        """An item, posted by a client; taken in where it was answered 202."""
        facts = {"by": name, "key_id": key_id, "bad": []}
        if status == 202:
            case_id = self.post(subject, 1, markets=market)
            self.history.calls[-1].facts.update(facts)
            return case_id
        body = {"platform": "p", "kind": "product", "id": subject, "version": 1, "markets": [market]}
        self.call("post", {"body": msgspec.json.encode(body).decode(), **facts}, status, {})
        return ""

    def take_in(self, name: str, key_id: str, subject: str, status: int | None, market: str = "DE") -> None:
        """An item that is there, whatever its post was answered."""
        self.post_by(name, key_id, subject, market=market)
        call = self.history.calls.pop()
        self.call("post", call.facts, status, {})

    def refusal(self, name: str, count: int) -> None:
        said = {"client": name, "reason": "revoked-key", "count": count}
        self.event("piepowder.access.eu", "eu", "access.refused", f"piepowder:client:{name}", derived(name, "r"), said)

    def row_of(self, name: str) -> ClientRow:
        return next(row for row in self.history.intake.clients if row.name == name)

    def set_client(self, row: ClientRow) -> None:
        rows = self.history.intake.clients
        rows[next(n for n, old in enumerate(rows) if old.name == row.name)] = row

    def _tell(self, name: str, change: str) -> None:
        row = self.row_of(name)
        self.set_client(row._replace(revision=row.revision + 1))
        keys = [
            {"sha256": sha256, **({"revoked_at": "then"} if key_id in self._revoked else {})}
            for key_id, sha256 in self._hashes[name].items()
        ]
        data: dict[str, Any] = {"name": name, "revision": row.revision + 1, "change": change, "keys": keys}
        event_id = derived("event", f"client:{name}", "piepowder.client.changed.v1", str(row.revision + 1))
        self.event("piepowder.control", "global", "client.changed", f"client:{name}", event_id, data)


def calling() -> Calling:
    """Clients of one region and of all; keys that change places, one whose making and one whose end nobody was told of;
    one that was shut out and let in again; posts that are taken, refused, and lost."""
    recording = Calling()
    recording.client("ann")
    first = recording.key("ann", "ann-1")
    recording.post_by("ann", first, "a-1")
    recording.post_by("ann", first, "a-2", 403, "US")
    recording.post_by("ann", first, "a-3", None)
    second = recording.key("ann", "ann-2")
    recording.post_by("ann", second, "a-4")
    recording.call("client.key", {"name": "ann", "key": "ann-3"}, 409, {})
    recording.revoke("ann", first, in_force=False)
    recording.post_by("ann", first, "a-5")
    recording.revoke("ann", first)
    recording.post_by("ann", first, "a-6", 401)
    recording.post_by("ann", first, "a-7", None)
    recording.post_by("ann", second, "a-8")
    recording.refusal("ann", 2)
    recording.client("ben", "*")
    only = recording.key("ben", "ben-1", in_force=False)
    recording.post_by("ben", only, "b-1", 401)
    recording.post_by("ben", only, "b-2", market="US")
    recording.change("ben", "disabled")
    recording.post_by("ben", only, "b-3", 401)
    recording.change("ben", "active")
    recording.post_by("ben", only, "b-4", market="US")
    recording.post_by("ben", only, "b-5", 429)
    recording.call("client.create", {"name": "eve", "regions": ["eu"], "platforms": ["*"]}, 503, None)
    return recording


def first_key() -> str:
    return derived("ann", "ann-1").replace("-", "")[:12]


def bens_key() -> str:
    return derived("ben", "ben-1").replace("-", "")[:12]


def test_a_sound_history_with_clients_has_no_violation() -> None:
    assert titles(calling().done()) == []


def lose_a_client(recording: Calling) -> None:
    recording.history.intake.clients = [row for row in recording.history.intake.clients if row.name != "ann"]


def give_a_client_another_region(recording: Calling) -> None:
    recording.set_client(recording.row_of("ann")._replace(regions=("eu", "us")))


def make_a_client_up(recording: Calling) -> None:
    recording.client("dan")
    recording.history.calls.pop()
    recording.call("client.create", {"name": "dan", "regions": ["eu"], "platforms": ["*"]}, 403, {})


def lose_a_key(recording: Calling) -> None:
    intake = recording.history.intake
    intake.keys = [key for key in intake.keys if key.key_id != bens_key()]


def make_a_key_up(recording: Calling) -> None:
    recording.key("ben", "ben-2")
    recording.history.calls.pop()


def make_two_keys_of_one_call(recording: Calling) -> None:
    key_id = recording.key("ben", "ben-2")
    keys = recording.history.intake.keys
    keys[-1] = keys[-1]._replace(made_with=derived("client-key", "local", "ben-1"))
    assert keys[-1].key_id == key_id


def show_two_keys_to_one_call(recording: Calling) -> None:
    recording.key("ben", "ben-2")
    recording.history.calls[-1].facts["key"] = "ben-1"


def lose_a_revocation(recording: Calling) -> None:
    keys = recording.history.intake.keys
    keys[0] = keys[0]._replace(revoked=False)


def revoke_what_nobody_ended(recording: Calling) -> None:
    recording.revoke("ben", bens_key())
    recording.history.calls.pop()


def lose_a_change(recording: Calling) -> None:
    recording.set_client(recording.row_of("ben")._replace(state="disabled"))


def refuse_a_sound_revocation(recording: Calling) -> None:
    recording.call("client.revoke", {"name": "ben", "key_id": bens_key()}, 403, {})


def forget_a_client(recording: Calling) -> None:
    recording.call("client.revoke", {"name": "ben", "key_id": bens_key()}, 404, {})


def leave_a_change_untold(recording: Calling) -> None:
    drop(recording, lambda r: is_of(r, "client.changed") and b"key_revoked" in (r.value or b""))


def tell_an_older_state_last(recording: Calling) -> None:
    recording.set_client(recording.row_of("ben")._replace(revision=99))


def tell_changes_in_disorder(recording: Calling) -> None:
    places = [n for n, r in enumerate(recording.history.records) if is_of(r, "client.changed")]
    a, b = (recording.history.records[n] for n in places[:2])
    recording.history.records[places[0]] = a._replace(offset=b.offset)
    recording.history.records[places[1]] = b._replace(offset=a.offset)


def tell_of_nobody(recording: Calling) -> None:
    recording.client("dan")
    recording.history.intake.clients.pop()
    recording.history.calls[-1] = recording.call(
        "client.create", {"name": "dan", "regions": ["eu"], "platforms": ["*"]}, None, None
    )


def tell_under_another_id(recording: Calling) -> None:
    n = next(n for n, r in enumerate(recording.history.records) if is_of(r, "client.changed"))
    record = recording.history.records[n]
    headers = tuple((name, derived("other").encode() if name == "ce_id" else v) for name, v in record.headers)
    recording.history.records[n] = record._replace(headers=headers)


def keep_three_keys_alive(recording: Calling) -> None:
    recording.key("ben", "ben-2")
    recording.key("ben", "ben-3")


def open_to_a_dead_key(recording: Calling) -> None:
    recording.post_by("ann", first_key(), "a-9")


def open_to_who_is_shut_out(recording: Calling) -> None:
    recording.change("ben", "disabled")
    recording.post_by("ben", bens_key(), "b-9")


def take_in_what_came_with_a_dead_key_and_was_refused(recording: Calling) -> None:
    recording.take_in("ann", first_key(), "a-9", 401)


def take_in_what_came_with_a_dead_key_and_was_not_answered(recording: Calling) -> None:
    recording.take_in("ann", first_key(), "a-9", None)


def let_a_client_into_another_region(recording: Calling) -> None:
    recording.post_by("ann", recording.key("ann", "ann-4"), "a-9", market="US")


def let_a_client_into_another_platform(recording: Calling) -> None:
    recording.client("fay", platform="q")
    recording.post_by("fay", recording.key("fay", "fay-1"), "f-1")


def take_in_what_another_platform_was_sent_and_not_answered(recording: Calling) -> None:
    recording.client("fay", platform="q")
    recording.take_in("fay", recording.key("fay", "fay-1"), "f-1", None)


def refuse_a_client_of_the_platform(recording: Calling) -> None:
    recording.client("fay", platform="p")
    recording.post_by("fay", recording.key("fay", "fay-1"), "f-1", 403)


def give_a_client_another_platform(recording: Calling) -> None:
    recording.set_client(recording.row_of("ann")._replace(platforms=("p",)))


def take_in_what_another_region_was_sent_and_not_answered(recording: Calling) -> None:
    recording.take_in("ann", recording.key("ann", "ann-4"), "a-9", None, "US")


def refuse_a_key_that_lives(recording: Calling) -> None:
    recording.post_by("ann", recording.key("ann", "ann-4"), "a-9", 401)


def refuse_a_region_that_is_the_clients(recording: Calling) -> None:
    recording.post_by("ben", bens_key(), "b-9", 403, "US")


def tell_of_too_many_refusals(recording: Calling) -> None:
    recording.refusal("ben", 9)


PLANTS: list[tuple[Callable[[Calling], None], int, str]] = [
    (lose_a_client, 1, "LOST: client ann"),
    (give_a_client_another_region, 1, "LOST: client ann"),
    (make_a_client_up, 1, "client dan exists, but no accepted call"),
    (lose_a_key, 1, "LOST: key"),
    (make_a_key_up, 1, "no call asked for it"),
    (make_two_keys_of_one_call, 2, "DOUBLE: one call made 2 keys"),
    (show_two_keys_to_one_call, 2, "two keys under one Idempotency-Key"),
    (lose_a_revocation, 1, "was revoked, but is not in the table"),
    (revoke_what_nobody_ended, 1, "was revoked, but no call asked for it"),
    (lose_a_change, 1, "LOST: client ben was set to active"),
    (refuse_a_sound_revocation, 9, "a valid client.revoke was rejected"),
    (forget_a_client, 1, "but does not exist"),
    (leave_a_change_untold, 4, "was not published as it is stored"),
    (tell_an_older_state_last, 4, "was not published as it is stored"),
    (tell_changes_in_disorder, 6, "DISORDER: the changes of client ann"),
    (tell_of_nobody, 4, "client dan was published, but is not stored"),
    (tell_under_another_id, 2, "published under another id"),
    (keep_three_keys_alive, 2, "client ben has 3 valid keys"),
    (open_to_a_dead_key, 7, "INVALID KEY ACCEPTED"),
    (open_to_who_is_shut_out, 7, "INVALID KEY ACCEPTED"),
    (take_in_what_came_with_a_dead_key_and_was_refused, 1, "all posts of it were rejected"),
    (take_in_what_came_with_a_dead_key_and_was_not_answered, 7, "came with a revoked key"),
    (let_a_client_into_another_region, 7, "LEAK: ann has no right to us"),
    (take_in_what_another_region_was_sent_and_not_answered, 7, "from a client without the right to post it"),
    (give_a_client_another_platform, 1, "LOST: client ann"),
    (let_a_client_into_another_platform, 7, "LEAK: fay has no right to p"),
    (take_in_what_another_platform_was_sent_and_not_answered, 7, "from a client without the right to post it"),
    (refuse_a_client_of_the_platform, 9, "was rejected: 403"),
    (refuse_a_key_that_lives, 9, "was rejected: 401"),
    (refuse_a_region_that_is_the_clients, 9, "was rejected: 403"),
    (tell_of_too_many_refusals, 4, "client ben has 9 reported rejections"),
]


@pytest.mark.parametrize(("plant", "promise", "title"), PLANTS, ids=[plant.__name__ for plant, _, _ in PLANTS])
def test_what_breaks_a_promise_is_named_with_its_records(
    plant: Callable[[Calling], None], promise: int, title: str
) -> None:
    recording = calling()
    plant(recording)
    found = [v for v in promises.check(recording.done()) if v.promise == promise and title in v.title]
    assert found, titles(recording.done())
    assert all(v.records for v in found)


def test_what_a_replay_changes_of_clients_is_named() -> None:
    before, after = calling().done(), calling()
    after.set_client(after.row_of("ben")._replace(state="disabled"))
    lose_a_revocation(after)
    found = [violation.title for violation in promises.compare(before, after.done())]
    assert found == ["a replay changed a client", "a replay changed a client's key"]
