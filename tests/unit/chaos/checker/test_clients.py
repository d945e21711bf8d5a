"""The checker reports each broken promise about clients and keys: each test adds one defect to a valid history."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import Call, ClientRow, KeyRow
from tests.support.chaos_history import Recording, drop, has_type, titles


class ClientRecording(Recording):
    """A recording with clients that post with their own keys; `_hashes` has the hashes of the keys by client and id."""

    def __init__(self) -> None:
        super().__init__()
        self._hashes: dict[str, dict[str, str]] = {}
        self._revoked: set[str] = set()

    def client(self, name: str, *regions: str, platform: str = "*") -> str:
        """Create and publish a client."""
        self._hashes[name] = {}
        self.history.intake.clients.append(ClientRow(name, "active", 0, regions or ("eu",), (platform,)))
        self._publish(name, "created")
        facts = {"name": name, "regions": list(regions or ("eu",)), "platforms": [platform]}
        self.call("client.create", facts, 201, {"state": "active", "in_force": True})
        return name

    def key(self, name: str, call: str, *, in_force: bool = True) -> str:
        """Create and publish a key under an Idempotency-Key."""
        sha256 = (derived(name, call).replace("-", "") * 2)[:64]
        self._hashes[name][sha256[:12]] = sha256
        made_with = derived("client-key", "local", call)
        self.history.intake.keys.append(KeyRow(name, sha256[:12], revoked=False, made_with=made_with))
        self._publish(name, "key_added")
        self.call("client.key", {"name": name, "key": call}, 201, {"key_id": sha256[:12], "in_force": in_force})
        return sha256[:12]

    def revoke(self, name: str, key_id: str, *, in_force: bool = True) -> Call:
        """Revoke a key."""
        keys = self.history.intake.keys
        n = next(n for n, key in enumerate(keys) if key.key_id == key_id)
        if not keys[n].revoked:
            keys[n] = keys[n]._replace(revoked=True)
            self._revoked.add(key_id)
            self._publish(name, "key_revoked")
        return self.call("client.revoke", {"name": name, "key_id": key_id}, 200, {"in_force": in_force})

    def change(self, name: str, state: str) -> Call:
        """Disable or enable a client."""
        self.set_client(self.row_of(name)._replace(state=state))
        self._publish(name, "disabled" if state == "disabled" else "enabled")
        return self.call("client.change", {"name": name, "state": state}, 200, {"in_force": True})

    def post_by(self, name: str, key_id: str, subject: str, status: int | None = 202, market: str = "DE") -> str:
        """Post an item as a client; it is published if the response is 202."""
        facts = {"by": name, "key_id": key_id, "bad": []}
        if status == 202:
            case_id = self.post(subject, 1, markets=market)
            self.history.calls[-1].facts.update(facts)
            return case_id
        body = {"platform": "p", "kind": "product", "id": subject, "version": 1, "markets": [market]}
        self.call("post", {"body": msgspec.json.encode(body).decode(), **facts}, status, {})
        return ""

    def publish_with_response(
        self, name: str, key_id: str, subject: str, status: int | None, market: str = "DE"
    ) -> None:
        """Publish an item although its post has another response."""
        self.post_by(name, key_id, subject, market=market)
        call = self.history.calls.pop()
        self.call("post", call.facts, status, {})

    def report_rejections(self, name: str, count: int) -> None:
        said = {"client": name, "reason": "revoked-key", "count": count}
        self.event("piepowder.access.eu", "eu", "access.refused", f"piepowder:client:{name}", derived(name, "r"), said)

    def row_of(self, name: str) -> ClientRow:
        return next(row for row in self.history.intake.clients if row.name == name)

    def set_client(self, row: ClientRow) -> None:
        rows = self.history.intake.clients
        rows[next(n for n, old in enumerate(rows) if old.name == row.name)] = row

    def _publish(self, name: str, change: str) -> None:
        row = self.row_of(name)
        self.set_client(row._replace(revision=row.revision + 1))
        keys = [
            {"sha256": sha256, **({"revoked_at": "then"} if key_id in self._revoked else {})}
            for key_id, sha256 in self._hashes[name].items()
        ]
        data: dict[str, Any] = {"name": name, "revision": row.revision + 1, "change": change, "keys": keys}
        event_id = derived("event", f"client:{name}", "piepowder.client.changed.v1", str(row.revision + 1))
        self.event("piepowder.control", "global", "client.changed", f"client:{name}", event_id, data)


def client_recording() -> ClientRecording:
    """A history with a client of one region and a client of all regions: a rotated key, changes whose responses were
    not `in_force`, a disabled and enabled client, and accepted, rejected and lost posts."""
    recording = ClientRecording()
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
    recording.report_rejections("ann", 2)
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


def test_a_valid_history_with_clients_has_no_violation() -> None:
    assert titles(client_recording().done()) == []


def lose_a_client(recording: ClientRecording) -> None:
    recording.history.intake.clients = [row for row in recording.history.intake.clients if row.name != "ann"]


def give_a_client_another_region(recording: ClientRecording) -> None:
    recording.set_client(recording.row_of("ann")._replace(regions=("eu", "us")))


def invent_a_client(recording: ClientRecording) -> None:
    recording.client("dan")
    recording.history.calls.pop()
    recording.call("client.create", {"name": "dan", "regions": ["eu"], "platforms": ["*"]}, 403, {})


def lose_a_key(recording: ClientRecording) -> None:
    intake = recording.history.intake
    intake.keys = [key for key in intake.keys if key.key_id != bens_key()]


def invent_a_key(recording: ClientRecording) -> None:
    recording.key("ben", "ben-2")
    recording.history.calls.pop()


def create_two_keys_for_one_call(recording: ClientRecording) -> None:
    key_id = recording.key("ben", "ben-2")
    keys = recording.history.intake.keys
    keys[-1] = keys[-1]._replace(made_with=derived("client-key", "local", "ben-1"))
    assert keys[-1].key_id == key_id


def return_two_keys_under_one_idempotency_key(recording: ClientRecording) -> None:
    recording.key("ben", "ben-2")
    recording.history.calls[-1].facts["key"] = "ben-1"


def lose_a_revocation(recording: ClientRecording) -> None:
    keys = recording.history.intake.keys
    keys[0] = keys[0]._replace(revoked=False)


def revoke_without_a_call(recording: ClientRecording) -> None:
    recording.revoke("ben", bens_key())
    recording.history.calls.pop()


def lose_a_change(recording: ClientRecording) -> None:
    recording.set_client(recording.row_of("ben")._replace(state="disabled"))


def reject_a_valid_revocation(recording: ClientRecording) -> None:
    recording.call("client.revoke", {"name": "ben", "key_id": bens_key()}, 403, {})


def respond_404_for_an_existing_client(recording: ClientRecording) -> None:
    recording.call("client.revoke", {"name": "ben", "key_id": bens_key()}, 404, {})


def leave_a_change_unpublished(recording: ClientRecording) -> None:
    drop(recording, lambda r: has_type(r, "client.changed") and b"key_revoked" in (r.value or b""))


def publish_an_older_state_last(recording: ClientRecording) -> None:
    recording.set_client(recording.row_of("ben")._replace(revision=99))


def publish_changes_in_disorder(recording: ClientRecording) -> None:
    places = [n for n, r in enumerate(recording.history.records) if has_type(r, "client.changed")]
    a, b = (recording.history.records[n] for n in places[:2])
    recording.history.records[places[0]] = a._replace(offset=b.offset)
    recording.history.records[places[1]] = b._replace(offset=a.offset)


def publish_a_client_that_is_not_stored(recording: ClientRecording) -> None:
    recording.client("dan")
    recording.history.intake.clients.pop()
    recording.history.calls[-1] = recording.call(
        "client.create", {"name": "dan", "regions": ["eu"], "platforms": ["*"]}, None, None
    )


def publish_under_another_id(recording: ClientRecording) -> None:
    n = next(n for n, r in enumerate(recording.history.records) if has_type(r, "client.changed"))
    record = recording.history.records[n]
    headers = tuple((name, derived("other").encode() if name == "ce_id" else v) for name, v in record.headers)
    recording.history.records[n] = record._replace(headers=headers)


def keep_three_valid_keys(recording: ClientRecording) -> None:
    recording.key("ben", "ben-2")
    recording.key("ben", "ben-3")


def accept_a_revoked_key(recording: ClientRecording) -> None:
    recording.post_by("ann", first_key(), "a-9")


def accept_a_disabled_client(recording: ClientRecording) -> None:
    recording.change("ben", "disabled")
    recording.post_by("ben", bens_key(), "b-9")


def publish_a_rejected_post_with_a_revoked_key(recording: ClientRecording) -> None:
    recording.publish_with_response("ann", first_key(), "a-9", 401)


def publish_a_post_with_a_revoked_key_and_no_response(recording: ClientRecording) -> None:
    recording.publish_with_response("ann", first_key(), "a-9", None)


def accept_a_post_for_another_region(recording: ClientRecording) -> None:
    recording.post_by("ann", recording.key("ann", "ann-4"), "a-9", market="US")


def accept_a_post_for_another_platform(recording: ClientRecording) -> None:
    recording.client("fay", platform="q")
    recording.post_by("fay", recording.key("fay", "fay-1"), "f-1")


def publish_a_post_for_another_platform_without_a_response(recording: ClientRecording) -> None:
    recording.client("fay", platform="q")
    recording.publish_with_response("fay", recording.key("fay", "fay-1"), "f-1", None)


def reject_a_post_for_the_clients_platform(recording: ClientRecording) -> None:
    recording.client("fay", platform="p")
    recording.post_by("fay", recording.key("fay", "fay-1"), "f-1", 403)


def give_a_client_another_platform(recording: ClientRecording) -> None:
    recording.set_client(recording.row_of("ann")._replace(platforms=("p",)))


def publish_a_post_for_another_region_without_a_response(recording: ClientRecording) -> None:
    recording.publish_with_response("ann", recording.key("ann", "ann-4"), "a-9", None, "US")


def reject_a_valid_key(recording: ClientRecording) -> None:
    recording.post_by("ann", recording.key("ann", "ann-4"), "a-9", 401)


def reject_a_post_for_the_clients_region(recording: ClientRecording) -> None:
    recording.post_by("ben", bens_key(), "b-9", 403, "US")


def report_too_many_rejections(recording: ClientRecording) -> None:
    recording.report_rejections("ben", 9)


DEFECTS: list[tuple[Callable[[ClientRecording], None], int, str]] = [
    (lose_a_client, 1, "LOST: client ann"),
    (give_a_client_another_region, 1, "LOST: client ann"),
    (invent_a_client, 1, "client dan exists, but no accepted call"),
    (lose_a_key, 1, "LOST: key"),
    (invent_a_key, 1, "no call asked for it"),
    (create_two_keys_for_one_call, 2, "DOUBLE: one call created 2 keys"),
    (return_two_keys_under_one_idempotency_key, 2, "two keys under one Idempotency-Key"),
    (lose_a_revocation, 1, "was revoked, but is stored as valid"),
    (revoke_without_a_call, 1, "was revoked, but no call asked for it"),
    (lose_a_change, 1, "LOST: client ben was set to active"),
    (reject_a_valid_revocation, 9, "a valid client.revoke was rejected"),
    (respond_404_for_an_existing_client, 1, "but does not exist"),
    (leave_a_change_unpublished, 4, "was not published as it is stored"),
    (publish_an_older_state_last, 4, "was not published as it is stored"),
    (publish_changes_in_disorder, 6, "DISORDER: the changes of client ann"),
    (publish_a_client_that_is_not_stored, 4, "client dan was published, but is not stored"),
    (publish_under_another_id, 2, "published under another id"),
    (keep_three_valid_keys, 2, "client ben has 3 valid keys"),
    (accept_a_revoked_key, 7, "INVALID KEY ACCEPTED"),
    (accept_a_disabled_client, 7, "INVALID KEY ACCEPTED"),
    (publish_a_rejected_post_with_a_revoked_key, 1, "all posts of it were rejected"),
    (publish_a_post_with_a_revoked_key_and_no_response, 7, "came with an invalid key"),
    (accept_a_post_for_another_region, 7, "LEAK: ann has no right to us"),
    (publish_a_post_for_another_region_without_a_response, 7, "from a client without the right to post it"),
    (give_a_client_another_platform, 1, "LOST: client ann"),
    (accept_a_post_for_another_platform, 7, "LEAK: fay has no right to p"),
    (publish_a_post_for_another_platform_without_a_response, 7, "from a client without the right to post it"),
    (reject_a_post_for_the_clients_platform, 9, "was rejected: 403"),
    (reject_a_valid_key, 9, "was rejected: 401"),
    (reject_a_post_for_the_clients_region, 9, "was rejected: 403"),
    (report_too_many_rejections, 4, "client ben has 9 reported rejections"),
]


@pytest.mark.parametrize(
    ("add_defect", "promise", "title"), DEFECTS, ids=[add_defect.__name__ for add_defect, _, _ in DEFECTS]
)
def test_a_broken_promise_is_reported_with_its_records(
    add_defect: Callable[[ClientRecording], None], promise: int, title: str
) -> None:
    recording = client_recording()
    add_defect(recording)
    found = [v for v in promises.check(recording.done()) if v.promise == promise and title in v.title]
    assert found, titles(recording.done())
    assert all(v.records for v in found)


def test_a_change_of_clients_by_a_replay_is_reported() -> None:
    before, after = client_recording().done(), client_recording()
    after.set_client(after.row_of("ben")._replace(state="disabled"))
    lose_a_revocation(after)
    found = [violation.title for violation in promises.compare(before, after.done())]
    assert found == ["a replay changed a client", "a replay changed a client's key"]
