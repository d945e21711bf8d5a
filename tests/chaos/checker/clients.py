"""Clients and their keys: every acknowledged change is stored and published; items that came with an invalid key, or
for a region or platform that the client does not have, do not exist; and a created key that was not revoked is
accepted.

A revocation holds from the time when its response said `in_force`: the process that responded rejects the key from then
on, whatever happens to the process. Before that, and without a response, both results are allowed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.chaos.checker.cloudevents import Event, derived
from tests.chaos.checker.facts import Facts
from tests.chaos.checker.history import Call, KeyRow, Posted
from tests.chaos.checker.violation import Violation

_MOST_KEYS = 2
_ENDLESS = float("inf")


class _Dossier(NamedTuple):
    """The facts about one client: its calls by kind, its stored keys, and its published changes."""

    name: str
    calls: dict[str, list[Call]]
    keys: list[KeyRow]
    published: list[Event]

    def rights(self) -> tuple[set[str], set[str]]:
        """The client's regions and platforms, from the call that created it."""
        made = next((call for call in self.calls["create"] if call.status in (200, 201)), None)
        asked = made or next(call for call in self.calls["create"] if not _rejected(call))
        return set(asked.facts["regions"]), set(asked.facts["platforms"])

    def revokes(self, key_id: str) -> list[Call]:
        return [call for call in self.calls["revoke"] if call.facts["key_id"] == key_id]

    def disabled(self, key_id: str, call: Call) -> bool:
        """True if a call was sent while the key was certainly invalid."""
        ended = min((_in_force(revoke) for revoke in self.revokes(key_id)), default=_ENDLESS)
        if call.sent_at > ended:
            return True
        outs = [change for change in self.calls["change"] if change.facts["state"] == "disabled"]
        last = max((change for change in outs if _in_force(change) < call.sent_at), key=_in_force, default=None)
        if last is None:
            return False
        enabled_at = min((change.sent_at for change in self._enabled(last)), default=_ENDLESS)
        return enabled_at == _ENDLESS or (call.answered_at is not None and call.answered_at < enabled_at)

    def may_be_disabled(self, key_id: str, call: Call) -> bool:
        """True if a call may have been sent while the key was invalid: not yet valid, or no longer valid."""
        made = [_in_force(key) for key in self.calls["key"] if key.status == 201 and key.answer["key_id"] == key_id]
        if call.sent_at < min(made, default=_ENDLESS):
            return True
        over = call.answered_at or _ENDLESS
        if any(revoke.sent_at < over and not _rejected(revoke) for revoke in self.revokes(key_id)):
            return True
        return any(
            change.sent_at < over and call.sent_at < self._until(change)
            for change in self.calls["change"]
            if change.facts["state"] == "disabled" and not _rejected(change)
        )

    def _until(self, out: Call) -> float:
        """The time from which a disabled client is certainly active again; infinity if `out` did not return 200."""
        return min(map(_in_force, self._enabled(out)), default=_ENDLESS) if out.status == 200 else _ENDLESS

    def _enabled(self, out: Call) -> list[Call]:
        changes = self.calls["change"]
        return [change for change in changes if change.facts["state"] == "active" and change.sent_at > out.sent_at]


def acknowledged_client_changes_are_stored(facts: Facts) -> Iterator[Violation]:
    """The table has every acknowledged change and nothing else; a repeated call created no second key."""
    rows = {row.name: row for row in facts.history.intake.clients}
    for dossier in _dossiers(facts).values():
        row, keys = rows.get(dossier.name), {key.key_id: key for key in dossier.keys}
        if all(_rejected(call) for call in dossier.calls["create"]):
            if row is not None or keys:
                title = f"client {dossier.name} exists, but no accepted call asked for it"
                yield Violation(1, title, (str(row), *map(str, dossier.calls["create"])))
            continue
        made = [call for call in dossier.calls["create"] if call.status in (200, 201)]
        if made and (row is None or (set(row.regions), set(row.platforms)) != dossier.rights()):
            title = f"LOST: client {dossier.name} had the response {made[0].status}, but differs from the response"
            yield Violation(1, title, (str(made[0]), str(row)))
        yield from _keys(dossier, keys)
        changes = dossier.calls["change"]
        certain = changes and all(call.status == 200 for call in changes)
        if row is not None and certain and row.state != changes[-1].facts["state"]:
            title = f"LOST: client {dossier.name} was set to {changes[-1].facts['state']}, but is {row.state}"
            yield Violation(1, title, (str(changes[-1]), str(row)))
        for call in [call for calls in dossier.calls.values() for call in calls]:
            if call.status == 404 and made and (made[0].answered_at or _ENDLESS) < call.sent_at:
                title = f"LOST: client {dossier.name} had the response {made[0].status}, but does not exist"
                yield Violation(1, title, (str(made[0]), str(call)))
            elif _rejected(call) and call.status not in (404, 409, 429):
                yield Violation(9, f"a valid {call.kind} was rejected: {call.status}", (str(call),))


def client_changes_are_published(facts: Facts) -> Iterator[Violation]:
    """The control topic has every change of a client once, in order, and the last one equals the table."""
    rows = {row.name: row for row in facts.history.intake.clients}
    dossiers = _dossiers(facts)
    for dossier in dossiers.values():
        row, published = rows.get(dossier.name), dossier.published
        revisions = [event.data["revision"] for event in published]
        if revisions != sorted(set(revisions)):
            title = f"DISORDER: the changes of client {dossier.name} were published as {revisions}"
            yield Violation(6, title, tuple(map(str, published)))
        for event in published:
            if event.id != derived("event", f"client:{dossier.name}", event.type, str(event.data["revision"])):
                title = f"DOUBLE: a change of client {dossier.name} was published under another id"
                yield Violation(2, title, (str(event),))
            living = [key for key in event.data.get("keys", ()) if not key.get("revoked_at")]
            if len(living) > _MOST_KEYS:
                title = f"DOUBLE: client {dossier.name} has {len(living)} valid keys"
                yield Violation(2, title, (str(event),))
        if row is None:
            if published:
                yield Violation(
                    4, f"client {dossier.name} was published, but is not stored", tuple(map(str, published))
                )
            continue
        counts = Counter(event.data["change"] for event in published)
        due = {"created": 1, "key_added": len(dossier.keys), "key_revoked": sum(key.revoked for key in dossier.keys)}
        if any(counts[change] != n for change, n in due.items()) or not _is_last(dossier, published[-1:], row.revision):
            title = f"LOST: client {dossier.name} was not published as it is stored"
            yield Violation(4, title, (str(row), *map(str, dossier.keys), *map(str, published)))


def keys_allow_their_own_posts_only(facts: Facts) -> Iterator[Violation]:
    """No post was accepted with an invalid key or without the right to its region and platform; no valid post was
    rejected."""
    dossiers = _dossiers(facts)
    for posted in facts.all_posts:
        if (dossier := _poster(dossiers, posted)) is None:
            continue
        key_id, call = posted.call.facts["key_id"], posted.call
        foreign, maybe = _foreign(facts, dossier, posted), _maybe_foreign(facts, dossier, posted)
        if posted.outcome == "accepted" and dossier.disabled(key_id, call):
            title = f"INVALID KEY ACCEPTED: {dossier.name} posted with {key_id}, which was invalid"
            yield Violation(7, title, (*map(str, [*dossier.revokes(key_id), *dossier.calls["change"]]), str(posted)))
        elif posted.outcome == "accepted" and foreign:
            title = f"LEAK: {dossier.name} has no right to {', '.join(sorted(foreign))}, but got 202"
            yield Violation(7, title, (str(posted),))
        elif posted.outcome == "refused" and not _with_the_right(dossier, posted, maybe):
            title = f"{dossier.name}, which may post there with {key_id}, was rejected: {posted.status}"
            yield Violation(9, title, (str(posted), *map(str, dossier.revokes(key_id))))


def no_item_came_from_a_rejected_post(facts: Facts) -> Iterator[Violation]:
    """Every item in a region's topic was posted by a client with the right to do so and a valid key."""
    dossiers = _dossiers(facts)
    for region in facts.regions:
        for item, submitted in facts.submissions[region].items():
            posts = facts.posts.get(item, [])
            posters = [(posted, _poster(dossiers, posted)) for posted in posts if posted.outcome != "refused"]
            if not posters or any(dossier is None for _, dossier in posters):
                continue
            may = [(p, d) for p, d in posters if d is not None and not _foreign(facts, d, p)]
            if not may:
                title = f"LEAK: item {item} is in {region}, from a client without the right to post it"
                yield Violation(7, title, (str(submitted), *map(str, posts)))
            elif all(d.disabled(p.call.facts["key_id"], p.call) for p, d in may):
                title = f"item {item} is in {region}, but came with an invalid key"
                yield Violation(7, title, (str(submitted), *map(str, posts)))


def reported_rejections_are_real(facts: Facts) -> Iterator[Violation]:
    """No client has more reported rejections than rejected calls; a killed process may report fewer."""
    names = {call.facts["name"] for call in facts.history.calls if call.kind == "client.create"}
    rejected: Counter[str] = Counter()
    for call in facts.history.calls:
        if call.kind == "batch" and call.status == 200:
            rejected[call.facts.get("by", "")] += sum(published.get("status", 0) >= 400 for published in call.answer)
        elif call.status is None or call.status >= 400:
            rejected[call.facts.get("by", "")] += len(call.facts.get("lines", "1"))
    published: dict[str, list[Event]] = defaultdict(list)
    for region in facts.regions:
        for event in facts.stage("access", region):
            if event.name == "access.refused" and event.data.get("client") in names:
                published[event.data["client"]].append(event)
    for name, events in published.items():
        if (count := sum(event.data["count"] for event in events)) > rejected[name]:
            title = f"client {name} has {count} reported rejections, but {rejected[name]} rejected calls"
            yield Violation(4, title, tuple(map(str, events)))


def _dossiers(facts: Facts) -> dict[str, _Dossier]:
    found: dict[str, _Dossier] = {}

    def of(name: str) -> _Dossier:
        return found.setdefault(name, _Dossier(name, defaultdict(list), [], []))

    for call in facts.history.calls:
        if call.kind.startswith("client."):
            of(call.facts["name"]).calls[call.kind.removeprefix("client.")].append(call)
    for row in facts.history.intake.clients:
        of(row.name)
    for key in facts.history.intake.keys:
        of(key.client).keys.append(key)
    for event in facts.stage("control", "global"):
        if event.name == "client.changed":
            of(event.data["name"]).published.append(event)
    return found


def _keys(dossier: _Dossier, keys: dict[str, KeyRow]) -> Iterator[Violation]:
    asked = {derived("client-key", "local", c.facts["key"]): c for c in dossier.calls["key"] if not _rejected(c)}
    shown: dict[str, Call] = {}
    for call in dossier.calls["key"]:
        if call.status == 201:
            if call.answer["key_id"] not in keys:
                title = f"LOST: key {call.answer['key_id']} of client {dossier.name} was created, but is not stored"
                yield Violation(1, title, (str(call),))
            if (first := shown.setdefault(call.facts["key"], call)) is not call:
                title = f"DOUBLE: client {dossier.name} got two keys under one Idempotency-Key"
                yield Violation(2, title, (str(first), str(call)))
    counted = Counter(key.made_with for key in dossier.keys)
    for key in dossier.keys:
        if key.made_with not in asked:
            title = f"key {key.key_id} of client {dossier.name} exists, but no call asked for it"
            yield Violation(1, title, (str(key),))
        elif counted[key.made_with] > 1:
            title = f"DOUBLE: one call created {counted[key.made_with]} keys of client {dossier.name}"
            yield Violation(2, title, (str(key), str(asked[key.made_with or ""])))
        revokes = dossier.revokes(key.key_id)
        if key.revoked and all(_rejected(call) for call in revokes):
            title = f"key {key.key_id} of client {dossier.name} was revoked, but no call asked for it"
            yield Violation(1, title, (str(key), *map(str, revokes)))
        if not key.revoked and any(call.status == 200 for call in revokes):
            title = f"LOST: key {key.key_id} of client {dossier.name} was revoked, but is stored as valid"
            yield Violation(1, title, (str(key), *map(str, revokes)))


def _is_last(dossier: _Dossier, last: list[Event], revision: int) -> bool:
    keys = {key.key_id: key.revoked for key in dossier.keys}
    return any(
        event.data["revision"] == revision
        and {key["sha256"][:12]: bool(key.get("revoked_at")) for key in event.data.get("keys", ())} == keys
        for event in last
    )


def _poster(dossiers: dict[str, _Dossier], posted: Posted) -> _Dossier | None:
    """The client that posted an item; None for clients that may post everything."""
    name = posted.call.facts.get("by")
    return None if name is None else dossiers[name]


def _foreign(facts: Facts, dossier: _Dossier, posted: Posted) -> set[str]:
    """The regions and the platform of an item that its client does not have, by the operating model in force; empty if
    it has them by one of the models that may have been in force."""
    return min(_foreign_by_model(facts, dossier, posted), key=len)


def _maybe_foreign(facts: Facts, dossier: _Dossier, posted: Posted) -> set[str]:
    """The regions and the platform of an item that its client may not have had."""
    return set().union(*_foreign_by_model(facts, dossier, posted))


def _foreign_by_model(facts: Facts, dossier: _Dossier, posted: Posted) -> list[set[str]]:
    regions, platforms = dossier.rights()
    platform = str((posted.body or {})["platform"])
    wrong = set() if platforms & {"*", platform} else {platform}
    return [wrong | (set() if "*" in regions else needed - regions) for needed in facts.regions_of(posted)]


def _with_the_right(dossier: _Dossier, posted: Posted, foreign: set[str]) -> bool:
    if posted.status == 429:
        return True
    if posted.status == 401:
        return dossier.may_be_disabled(posted.call.facts["key_id"], posted.call)
    return posted.status == 403 and bool(foreign)


def _in_force(call: Call) -> float:
    """The time of the response if it says that the change is in force; otherwise infinity."""
    said = call.status in (200, 201) and call.answer["in_force"]
    return call.answered_at or _ENDLESS if said else _ENDLESS


def _rejected(call: Call) -> bool:
    return call.status is not None and 400 <= call.status < 500
