"""The promises of docs/reliability.md as checks of the facts; each violation has the records that show it.

Each check is complete, and none trusts a statement of the system about itself: the expected state of a case is derived
from the topic that opened it, and the end of a lease from the response to its holder.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import pairwise

from tests.chaos.checker.clients import (
    acknowledged_client_changes_are_stored,
    client_changes_are_published,
    keys_allow_their_own_posts_only,
    no_item_came_from_a_rejected_post,
    reported_rejections_are_real,
)
from tests.chaos.checker.cloudevents import Event, derived, read_event
from tests.chaos.checker.complaints import (
    complaints_end_with_their_decision,
    no_complaint_is_lost,
    only_an_appeal_replaces_a_decision,
)
from tests.chaos.checker.facts import APPEAL, OPENED, Facts, Lease, Place, is_of_item, is_older, seconds
from tests.chaos.checker.history import GENERATION, Cell, DecisionRow, History, LogRow, Posted, Record
from tests.chaos.checker.operations import (
    a_stop_ends_every_call,
    a_storm_stops_only_its_topic,
    actions_have_their_effect,
    losses_are_accepted_by_an_event,
)
from tests.chaos.checker.parking import follows_a_planted_record, parked_keys_wait_completely
from tests.chaos.checker.requests import (
    no_step_of_a_request_is_invented,
    no_step_of_a_request_is_lost,
    request_steps_are_published_in_their_regions,
    request_steps_are_published_once_in_order,
    request_steps_follow_the_rules,
)
from tests.chaos.checker.restores import (
    a_lost_lease_is_reported_truly,
    a_restore_begins_an_incarnation,
    extensions_that_are_not_lost,
    is_lost_lease,
    may_be_lost,
    no_decision_id_is_issued_twice,
    nothing_is_decided_during_a_recovery,
    wrong_token,
)
from tests.chaos.checker.violation import Check, Violation
from tests.chaos.checker.withdrawals import no_withdrawal_is_lost, withdrawals_close_their_cases

_ENDS = {"decision.made": "decided", "case.superseded": "superseded"}
_DECISIONS = ("decision.made", "decision.replaced")
_UNDECIDED = ("superseded", "withdrawn", "closed")
_CALLS = "access"  # the stage of REST calls, not of items
_CLOCKS = 0.25  # seconds by which the clocks of client and database may differ on one machine


def check(history: History) -> list[Violation]:
    """All violations in a history, in the order of the promises."""
    facts = Facts(history)
    return sorted((v for find in CHECKS for v in find(facts)), key=lambda v: v.promise)


def compare(before: History, after: History) -> list[Violation]:
    """The changes of a replay from the first offsets (promise 5): only repeated records are allowed, and openings of
    known cases under rules that came into force after their first opening."""
    found: list[Violation] = []
    other_openings = _openings_under_other_rules(before, after)
    known, all_places = ({(r.topic, r.partition, r.offset) for r in history.records} for history in (before, after))
    new_places = all_places - known
    for region in sorted(before.cells):
        old, new = before.cells[region], after.cells[region]
        found += _changed(f"a case of {region}", _keyed(old.cases), _keyed(new.cases))
        found += _changed(f"a decision of {region}", _keyed(old.decisions, 2), _keyed(new.decisions, 2))
        new_log = [row for row in _replayable(new.log) if row.event_id not in other_openings]
        found += _changed(f"an entry of {region}'s audit log", _keyed(_replayable(old.log)), _keyed(new_log))
        letters = [{row[:4]: row for row in cell.letters} for cell in (old, new)]
        for key in letters[1].keys() - letters[0].keys():
            if key[:3] in new_places:
                del letters[1][key]  # a repeat, which waits like the first copy
        found += _changed(f"a dead letter in {region}'s audit", *letters)
        found += _changed(f"a total of {region}'s decisions", old.tallies, new.tallies)
    statuses = [{(row.item_id, row.region): row.status for row in h.statuses} for h in (before, after)]
    found += _changed("a status", *statuses)
    found += _changed("a total of intake", before.totals, after.totals)
    tables, tables_after = before.intake, after.intake
    found += _changed("a business request", _keyed(tables.requests), _keyed(tables_after.requests))
    found += _changed("a step of a request", _keyed(tables.steps, 2), _keyed(tables_after.steps, 2))
    found += _changed("a client", _keyed(tables.clients), _keyed(tables_after.clients))
    found += _changed("a client's key", _keyed(tables.keys, 2), _keyed(tables_after.keys, 2))
    known_ids = {event.id for event in _replayed(before)} | other_openings
    made = {event.id: event for event in _replayed(after) if event.id not in known_ids}
    found += [Violation(5, "a replay created a new event", (str(event),)) for event in made.values()]
    return found


def nothing_accepted_is_lost(facts: Facts) -> Iterator[Violation]:
    """Each item with status 202 is in each of its regions and has a case, which is stored."""
    for item, posts in facts.posts.items():
        missing: dict[str, Posted] = {}
        for accepted in (p for p in posts if p.outcome == "accepted"):
            allowed, named = facts.regions_of(accepted), set(accepted.verdict.get("regions", ()))
            if named and named not in allowed:
                title = f"item {item} was accepted for {sorted(named)}, which own not exactly its markets"
                yield Violation(1, title, (str(accepted), *map(str, facts.models)))
            for region in named or set.intersection(*allowed):
                if item not in facts.submissions[region]:
                    missing.setdefault(region, accepted)
        for region, accepted in sorted(missing.items()):
            yield Violation(1, f"LOST: accepted item {item} is not in region {region}", (str(accepted),))
    for region in facts.regions:
        for item, submitted in facts.submissions[region].items():
            case_id = derived("case", item, region, "item")
            opened = facts.opened[region].get(case_id)
            if opened is None:
                if facts.handled_at(submitted, f"piepowder-router-{region}") is None:
                    title = f"LOST: item {item} is in a loss of the router in {region}, and was not published again"
                    yield Violation(1, title, (str(submitted),))
                elif facts.dead_lettered(submitted, region, "router") is None:
                    yield Violation(1, f"LOST: item {item} was accepted but has no case in {region}", (str(submitted),))
            elif case_id not in facts.rows[region] and facts.dead_lettered(opened, region, "decision") is None:
                yield Violation(1, f"LOST: case {case_id} was opened but is not stored in {region}", (str(opened),))


def nothing_is_invented(facts: Facts) -> Iterator[Violation]:
    """Every item in a topic was posted and not rejected; every stored case was opened."""
    for region in facts.regions:
        for item, submitted in facts.submissions[region].items():
            posts = facts.posts.get(item, [])
            if all(p.outcome == "refused" for p in posts):
                how = "all posts of it were rejected" if posts else "no client posted it"
                yield Violation(1, f"item {item} is in {region}, and {how}", (str(submitted), *map(str, posts[:3])))
            elif (wrong := _differences(submitted, posts)) is not None:
                yield Violation(1, f"item {item} is not what was posted: {wrong}", (str(submitted), str(posts[0])))
        for case_id, row in facts.rows[region].items():
            if case_id not in facts.opened[region]:
                yield Violation(1, f"case {case_id} is stored in {region}, but was not opened", (str(row),))
    for record, reason in facts.broken:
        yield Violation(1, f"an unplanted record is not an event: {reason}", (str(record),))


def only_planted_records_are_dead_lettered(facts: Facts) -> Iterator[Violation]:
    """Each planted record is a dead letter of each group that reads it, unchanged; no other record is."""
    for region in facts.regions:
        found = {(letter.source, letter.group): letter for letter in facts.letters[region]}
        for place, planted in facts.planted.items():
            for group in planted.groups:
                if not group.endswith(f"-{region}") or facts.is_lost(place, group):
                    continue
                letter = found.get((place, group))
                original = facts.by_place.get(place)
                if letter is None:
                    yield Violation(1, f"{planted.kind}: {group} did not dead-letter it", (str(original or place),))
                elif original is not None and not _unchanged(letter.record, original):
                    title = f"{planted.kind}: {group} changed it"
                    yield Violation(1, title, (str(original), str(letter.record)))
        for letter in facts.letters[region]:
            if letter.source not in facts.planted and not follows_a_planted_record(facts, letter, found):
                title = f"a valid record was dead-lettered by {letter.group}: {letter.reason}"
                yield Violation(1, title, (str(letter.record),))


def case_states_follow_from_events(facts: Facts) -> Iterator[Violation]:
    """The state of a case follows from its verdict and from the earlier and later versions."""
    for region in facts.regions:
        decided = {row.case_id: row for row in facts.history.cells[region].decisions if row.n == 1}
        for subject, came in _by_subject(facts, region).items():
            newest: Event | None = None
            former: list[Event] = []
            last: dict[str, Event] = {}
            arrivals = [event for event in came if not facts.dead_lettered(event, region, "decision")]
            for event in arrivals:
                if newest is not None and any(is_older(event, each) for each in former):
                    yield from _superseded_by(facts, region, event, newest)
                    continue
                if newest is not None:
                    last[newest.data["case_id"]] = event
                newest = event
                former.append(event)
            for event in arrivals:
                case_id = event.data["case_id"]
                case, decision = facts.rows[region].get(case_id), decided.get(case_id)
                if case is None or (case_id not in last and event is not newest):
                    continue
                if event.data["verdict"] != "review" and case.state != "withdrawn":
                    if case.state != "decided" or decision is None or not decision.automated:
                        title = f"the verdict is {event.data['verdict']}, but case {case_id} is {case.state}"
                        yield Violation(1, title, (str(event), str(case), str(decision)))
                    continue
                follower = last.get(case_id)
                if case.state in ("waiting", "claimed") and follower is not None:
                    title = f"case {case_id} of {subject} is {case.state} although a newer version arrived"
                    yield Violation(6, title, (str(event), str(follower), str(case)))
                if case.state == "superseded" and (follower is None or case.superseded_by != follower.data["item_id"]):
                    title = f"case {case_id} was superseded by a version that does not follow it"
                    yield Violation(6, title, (str(event), str(follower), str(case)))
                if case.state == "decided" and decision is None:
                    yield Violation(3, f"case {case_id} is decided, but no decision is stored", (str(event), str(case)))


def one_current_decision(facts: Facts) -> Iterator[Violation]:
    """The decisions of a case are numbered from 1 without a gap, and each was published once, as it is stored."""
    for region in facts.regions:
        cell = facts.history.cells[region]
        stored: dict[str, list[DecisionRow]] = defaultdict(list)
        for row in cell.decisions:
            stored[row.case_id].append(row)
        published: dict[str, dict[str, Event]] = defaultdict(dict)
        for event in facts.stage("decisions", region):
            if event.name in _DECISIONS:
                published[event.data["case_id"]][event.id] = event
        for case_id in stored.keys() | published.keys():
            rows, events = stored.get(case_id, []), list(published.get(case_id, {}).values())
            numbers = [row.n for row in rows]
            if numbers != list(range(1, len(rows) + 1)):
                yield Violation(2, f"DOUBLE: case {case_id} has decisions {numbers}", tuple(map(str, rows)))
            if len(events) > len(rows):
                title = f"DOUBLE: case {case_id} has {len(rows)} decision(s) and {len(events)} were published"
                yield Violation(2, title, (*map(str, rows), *map(str, events)))
            elif len(events) < len(rows):
                yield Violation(4, f"a decision of case {case_id} was not published", tuple(map(str, rows)))
            elif any(_published(event) != row for event, row in zip(_numbered(events), rows, strict=True)):
                title = f"a decision of case {case_id} was published differently from the table"
                yield Violation(4, title, (*map(str, rows), *map(str, events)))
            if rows and (case := facts.rows[region].get(case_id)) is not None and case.state != "decided":
                yield Violation(3, f"case {case_id} is {case.state} but has a decision", (str(case), *map(str, rows)))
        yield from _tallies(facts, region, cell)
    yield from _repeats_are_repeats(facts)


def one_reviewer_holds_a_case(facts: Facts) -> Iterator[Violation]:
    """The leases of a case do not overlap, and no event follows its end."""
    for region in facts.regions:
        for case_id, life in facts.lives[region].items():
            yield from _life(facts, region, case_id, life)


def an_expired_lease_cannot_decide(facts: Facts) -> Iterator[Violation]:
    """The leases in the responses to reviewers are consistent with each other and with the stored ones."""
    decisions = {
        (region, row.case_id): row
        for region in facts.regions
        for row in facts.history.cells[region].decisions
        if row.n == 1
    }
    claimed = {
        (region, case_id, event.data["lease_token"]): event
        for region in facts.regions
        for case_id, life in facts.lives[region].items()
        for event in life
        if event.name == "case.claimed"
    }
    held: dict[tuple[str, str], list[tuple[int, Lease]]] = defaultdict(list)
    for (region, case_id, token), lease in sorted(facts.leases.items()):
        held[region, case_id].append((token, lease))
        row = decisions.get((region, case_id))
        event = claimed.get((region, case_id, token))
        yield from _lease(facts, (region, case_id, token), event, row)
    for (region, case_id), leases in held.items():
        kept = [
            (token, lease)
            for token, lease in leases
            if (region, case_id, token) in claimed or not is_lost_lease(facts, region, lease)
        ]
        for (token, lease), (following, _) in pairwise(kept):
            event = claimed.get((region, case_id, following))
            until = _until(lease._replace(heartbeats=extensions_that_are_not_lost(facts, region, lease)))
            given_back = any(not _rejected(call.status) for call in lease.releases)
            if event is not None and until is not None and not given_back and seconds(event.time) < until:
                title = f"TWO CLAIMS AT A TIME: case {case_id} was claimed again during the lease with token {token}"
                yield Violation(3, title, (*map(str, [*lease.claims, *lease.heartbeats]), str(event)))
    for (region, case_id), row in decisions.items():
        if not row.automated:
            known = facts.leases.get((region, case_id, row.lease_token))
            calls = known.decisions if known else []
            if not any(call.facts["action"] == row.action and not _rejected(call.status) for call in calls):
                title = f"a reviewer's decision of case {case_id} that no response reported"
                yield Violation(3, title, (str(row), *map(str, calls)))


def every_event_is_audited_once(facts: Facts) -> Iterator[Violation]:
    """The log has every event of every topic once, unchanged, without a gap; and every dead letter."""
    for region in facts.regions:
        cell = facts.history.cells[region]
        logged: dict[str, list[LogRow]] = defaultdict(list)
        for row in cell.log:
            logged[row.event_id].append(row)
        for event_id, event in facts.any_events[region].items():
            if len(rows := logged.get(event_id, [])) != 1 and not (
                not rows and facts.handled_at(event, f"piepowder-audit-{region}") is None
            ):
                what = f"AUDIT GAP: event {event_id} is {len(rows)} times in {region}'s log"
                yield Violation(4, what, (str(event), *map(str, rows)))
        for row in cell.log:
            record = facts.logged_record(row)
            if record is None and row.topic.endswith(f".{region}"):
                yield Violation(4, f"{region}'s log has an event that is in no topic", (str(row),))
            elif record is not None and row.event_id not in facts.any_events[region]:
                yield Violation(4, f"TWO VALUES of one event id are in {region}'s log", (str(record), str(row)))
            elif record is not None and sha256(record.value or b"").hexdigest() != row.sha256:
                yield Violation(4, f"{region}'s log has event {row.event_id} with other data", (str(record), str(row)))
        if [row.seq for row in cell.log] != list(range(1, len(cell.log) + 1)):
            ends = [f"{a.seq} -> {b.seq}" for a, b in pairwise(cell.log) if b.seq != a.seq + 1]
            yield Violation(4, f"AUDIT GAP: the sequence of {region}'s log has a gap", tuple(ends[:5]))
        counts = dict(Counter(row.type for row in cell.log))
        if cell.log_size != len(cell.log) or cell.log_counts != counts:
            yield Violation(4, f"{region}'s log has wrong counts", (f"{cell.log_size}, {cell.log_counts}; {counts}",))
        yield from _letters_audited(facts, region)
        if cell.unpublished:
            yield Violation(4, f"{cell.unpublished} event(s) of {region} were never published", ())


def order_is_preserved(facts: Facts) -> Iterator[Violation]:
    """The versions of a subject stay in order from the post to the decision event."""
    yield from _one_partition_a_subject(facts)
    for region in facts.regions:
        yield from _posted_in_order(facts, region)
        cases = _by_subject(facts, region)
        submitted: dict[str, list[Event]] = defaultdict(list)
        for event in facts.submissions[region].values():
            submitted[event.subject].append(event)
        for subject, opened in cases.items():
            came = [e.data["item_id"] for e in opened]
            router = f"piepowder-router-{region}"
            handled = {e.data["item_id"]: facts.handled_at(e, router) for e in submitted[subject]}
            went = sorted((offset, item) for item, offset in handled.items() if offset is not None)
            went = [item for _, item in went if item in set(came)]
            if came != went:
                title = f"DISORDER: the cases of {subject} in {region} are not in the order of its items"
                yield Violation(6, title, (*map(str, submitted[subject]), *map(str, opened)))
            former: list[Event] = []
            for event in opened:
                if any(is_older(event, each) for each in former):
                    continue
                if former:
                    yield from _published_in_order(facts, region, former[-1], event)
                former.append(event)


def data_stays_in_its_region(facts: Facts) -> Iterator[Violation]:
    """No record of a region is in another region's topics or tables."""
    for (stage, region), events in facts.events.items():
        if region == "global":
            continue
        for event in events:
            item = event.data.get("item_id", "")
            posts = [p for p in facts.posts.get(item, []) if p.outcome != "refused"]
            if event.region != region:
                yield Violation(7, f"LEAK: an event of {event.region} is in {region}'s {stage}", (str(event),))
            elif posts and not any(region in facts.possible_regions_of(posted) for posted in posts):
                yield Violation(
                    7, f"LEAK: {item} does not belong to {region}, but is in its {stage}", (str(event), str(posts[0]))
                )
            elif (case_id := event.data.get("case_id")) and case_id != derived(
                "case", item, region, event.data.get("case_type", "item")
            ):
                yield Violation(7, f"LEAK: case {case_id} is not one of {region}", (str(event),))
    yield from _separated(facts)


def a_decision_names_its_policy_set(facts: Facts) -> Iterator[Violation]:
    """A decision has the policy set of its case, which was published; the same item under the same set has the same
    result."""
    for region in facts.regions:
        for row in facts.history.cells[region].decisions:
            opened = facts.opened[region].get(row.case_id)
            if opened is None:
                continue
            trace = opened.data["trace"]["policy_set"]
            if row.policy_set != trace or trace not in facts.policy_sets:
                title = f"the decision of {row.case_id} names policy set {row.policy_set!r}, its case {trace!r}"
                yield Violation(8, title, (str(row), str(opened)))
            if row.automated and (
                row.action != opened.data["verdict"] or list(row.reasons) != opened.data.get("reasons", [])
            ):
                yield Violation(
                    8, f"the automatic decision of {row.case_id} is not its verdict", (str(row), str(opened))
                )
        for event in facts.events["cases", region]:
            if event.name != OPENED:
                continue
            first = facts.opened[region][event.data["case_id"]]
            if _rules_of(first) == _rules_of(event) and _judged(first) != _judged(event):
                title = f"the same item got another result under {event.data['trace']['policy_set']}"
                yield Violation(8, title, (str(first), str(event)))


def overload_and_faults_have_the_promised_responses(facts: Facts) -> Iterator[Violation]:
    """No status 500; 429 and 503 have a Retry-After; valid items are accepted and invalid ones rejected."""
    for call in facts.history.calls:
        if call.status is None:
            continue
        if call.status >= 500 and call.status != 503:
            yield Violation(9, f"a call got {call.status}", (str(call),))
        if call.status in (429, 503) and call.retry_after is None:
            yield Violation(9, f"{call.status} without Retry-After", (str(call),))
        whole = call.kind == "batch" and call.status == 200 and all("line" in published for published in call.answer)
        if whole and len(call.answer) != len(call.facts["lines"]):
            title = f"a batch of {len(call.facts['lines'])} lines got {len(call.answer)} results"
            yield Violation(9, title, (str(call),))
    for posted in facts.all_posts:
        bad = posted.line in posted.call.facts.get("bad", ())
        others = "by" in posted.call.facts  # of clients that are created during the run
        if bad and not others and posted.outcome == "accepted":
            yield Violation(9, "an invalid item was accepted", (str(posted),))
        if not bad and not others and posted.outcome == "refused" and posted.status != 429:
            yield Violation(9, f"a valid item was rejected: {posted.status}", (str(posted),))
        if posted.line and posted.status in (429, 503) and not posted.retry_after:
            yield Violation(9, f"a line got {posted.status} without retry_after", (str(posted),))


def clients_can_see_where_their_items_are(facts: Facts) -> Iterator[Violation]:
    """Intake's status of each item follows from its events, and its totals count these statuses."""
    stored = {(row.item_id, row.region): row.status for row in facts.history.statuses}
    expected: dict[tuple[str, str], str] = {}
    for region in facts.regions:
        for item, submitted in facts.submissions[region].items():
            expected[item, region] = _status(facts, region, item, submitted)
    for key in expected.keys() | stored.keys():
        item, region = key
        if expected.get(key) != stored.get(key) and item in facts.submissions[region]:
            title = f"the status of item {item} in {region} is {stored.get(key)}; it is {expected.get(key)}"
            life = facts.lives[region].get(derived("case", item, region, "item"), [])
            yield Violation(1, title, (str(facts.submissions[region][item]), *map(str, life)))
    counted = dict(Counter((row.region, row.status) for row in facts.history.statuses))
    if counted != facts.history.totals:
        yield Violation(
            1, "intake has wrong counts of its items", (f"stored {facts.history.totals}", f"counted {counted}")
        )


CHECKS: tuple[Check, ...] = (
    nothing_accepted_is_lost,
    nothing_is_invented,
    no_withdrawal_is_lost,
    withdrawals_close_their_cases,
    only_planted_records_are_dead_lettered,
    parked_keys_wait_completely,
    no_complaint_is_lost,
    complaints_end_with_their_decision,
    only_an_appeal_replaces_a_decision,
    no_step_of_a_request_is_lost,
    no_step_of_a_request_is_invented,
    request_steps_follow_the_rules,
    request_steps_are_published_in_their_regions,
    request_steps_are_published_once_in_order,
    acknowledged_client_changes_are_stored,
    client_changes_are_published,
    keys_allow_their_own_posts_only,
    no_item_came_from_a_rejected_post,
    reported_rejections_are_real,
    clients_can_see_where_their_items_are,
    case_states_follow_from_events,
    one_current_decision,
    one_reviewer_holds_a_case,
    an_expired_lease_cannot_decide,
    every_event_is_audited_once,
    order_is_preserved,
    data_stays_in_its_region,
    a_decision_names_its_policy_set,
    overload_and_faults_have_the_promised_responses,
    losses_are_accepted_by_an_event,
    actions_have_their_effect,
    a_storm_stops_only_its_topic,
    a_stop_ends_every_call,
    a_restore_begins_an_incarnation,
    no_decision_id_is_issued_twice,
    nothing_is_decided_during_a_recovery,
    a_lost_lease_is_reported_truly,
)


def _life(  # noqa: PLR0912 - one branch per event
    facts: Facts, region: str, case_id: str, life: list[Event]
) -> Iterator[Violation]:
    row = facts.rows[region].get(case_id)
    holder: Event | None = None
    ended: Event | None = None
    token = 0
    for event in life:
        given = event.data.get("lease_token", 0)
        if ended is not None and (event.name, ended.name) == ("decision.replaced", "decision.made"):
            continue
        if ended is not None:
            yield Violation(2, f"case {case_id} has an event after its end: {event.name}", (str(ended), str(event)))
        elif event.name == "case.claimed":
            if holder is not None:
                title = f"TWO CLAIMS AT A TIME: case {case_id} was claimed during a lease"
                yield Violation(3, title, (str(holder), str(event)))
            if (wrong := wrong_token(facts, region, event, token)) is not None:
                yield Violation(3, f"case {case_id}: {wrong}", tuple(map(str, life)))
            holder, token = event, given
        elif event.name in ("case.released", "case.expired"):
            if holder is None or holder.data["lease_token"] != given:
                yield Violation(3, f"case {case_id}: {event.name} of a lease without a holder", tuple(map(str, life)))
            holder = None
        elif event.name in ("case.superseded", "case.closed"):
            ended, holder = event, None
        elif event.name == "decision.made":
            if not event.data["automated"] and (holder is None or holder.data["lease_token"] != given):
                title = f"DECIDED BY AN EXPIRED LEASE: case {case_id}, token {given}, whose lease was not valid"
                yield Violation(3, title, tuple(map(str, life)))
            elif holder is not None and holder.data["reviewer"] != event.data.get("reviewer"):
                yield Violation(
                    3, f"case {case_id} was decided by another reviewer than the holder", tuple(map(str, life))
                )
            ended, holder = event, None
    if row is None or ended is not None:
        state = None if ended is None else _ENDS.get(ended.name) or _closing_reason(ended)
        if row is not None and row.state != state:
            yield Violation(4, f"case {case_id} is {row.state}, but its events mean {state}", (str(row), str(ended)))
    elif (row.state, row.lease_token) != ("claimed" if holder else "waiting", token):
        title = f"case {case_id} is {row.state} with token {row.lease_token}; its events differ"
        yield Violation(4, title, (str(row), *map(str, life)))


def _closing_reason(closed: Event) -> str:
    return "withdrawn" if closed.data["reason"] == "withdrawn" else "closed"


def _lease(
    facts: Facts, key: tuple[str, str, int], event: Event | None, row: DecisionRow | None
) -> Iterator[Violation]:
    (region, case_id, token), lease = key, facts.leases[key]
    keys = {call.facts["key"] or str(call.n) for call in lease.claims}
    if len(keys) > 1:
        title = f"TWO CLAIMS AT A TIME: case {case_id} was claimed twice with token {token}"
        yield Violation(3, title, tuple(map(str, lease.claims)))
    is_lost = event is None and is_lost_lease(facts, region, lease)
    if lease.claims and not is_lost and (event is None or event.data["reviewer"] != lease.claims[0].facts["reviewer"]):
        yield Violation(4, f"the claim of case {case_id} has a response but no event", tuple(map(str, lease.claims)))
    certain = all(call.status is not None and call.status < 500 for call in lease.heartbeats)
    until = _until(lease)
    mine = row if row is not None and row.lease_token == token and not row.automated else None
    for call in lease.decisions:
        same = mine is not None and (mine.action, list(mine.reasons), mine.note) == (
            call.facts["action"], call.facts["reasons"], call.facts["note"])  # fmt: skip
        late = certain and until is not None and call.sent_at > until + _CLOCKS
        if call.status == 201 and late:
            title = f"DECIDED BY AN EXPIRED LEASE: case {case_id}, token {token}, which had expired"
            yield Violation(3, title, (*map(str, lease.claims), *map(str, lease.heartbeats), str(call), str(row)))
        if call.status in (200, 201) and not same and (mine is not None or not may_be_lost(facts, region, call)):
            title = f"the decision of case {case_id} with the response {call.status} differs from the stored one"
            yield Violation(2, title, (str(call), str(row)))
        if call.status == 409 and same and all(_rejected(other.status) for other in lease.decisions):
            yield Violation(3, f"the decision of case {case_id} was rejected but made", (str(call), str(row)))
    given_back = any(
        event.name == "case.released" and event.data["lease_token"] == token
        for event in facts.lives[region].get(case_id, ())
    )
    for call in lease.releases:
        if call.status == 200 and not given_back and not may_be_lost(facts, region, call):
            yield Violation(4, f"the release of case {case_id} has a response but no event", (str(call),))
    for call in lease.heartbeats:
        if call.status == 200 and certain and call.sent_at > _until_before(lease, call) + _CLOCKS:
            title = f"the lease of case {case_id}, token {token}, had expired but was extended"
            yield Violation(3, title, (*map(str, lease.claims), *map(str, lease.heartbeats)))


def _until(lease: Lease) -> float | None:
    published = [call.answer["until"] for call in [*lease.claims, *lease.heartbeats] if call.status in (200, 201)]
    return max(map(seconds, published)) if lease.claims else None


def _until_before(lease: Lease, heartbeat: object) -> float:
    published = [call.answer["until"] for call in lease.claims]
    for call in lease.heartbeats:
        if call is heartbeat:
            break
        if call.status == 200:
            published.append(call.answer["until"])
    return max(map(seconds, published)) if published else float("inf")


def _rejected(status: int | None) -> bool:
    return status is not None and 400 <= status < 500


def _differences(submitted: Event, posts: list[Posted]) -> str | None:
    """The differences between the posted content and the event."""
    held = submitted.data["item"]
    body = next(p.body for p in posts if p.body is not None)
    for name in ("markets", "title", "text", "brand", "category", "attributes", "price", "seller", "scores"):
        if (body.get(name) or None) != (held.get(name) or None):
            return f"{name} is {held.get(name)!r:.80}, {body.get(name)!r:.80} was posted"
    return None


def _unchanged(letter: Record, original: Record) -> bool:
    kept = tuple(header for header in letter.headers if not header[0].startswith("dl_"))
    return (letter.key, letter.value, kept) == (original.key, original.value, original.headers)


def _by_subject(facts: Facts, region: str) -> dict[str, list[Event]]:
    """The first openings of items' cases by subject, in the order of the topic."""
    found: dict[str, list[Event]] = defaultdict(list)
    for event in facts.opened[region].values():
        if is_of_item(event):
            found[event.subject].append(event)
    return found


def _superseded_by(facts: Facts, region: str, event: Event, newest: Event) -> Iterator[Violation]:
    row = facts.rows[region].get(event.data["case_id"])
    if row is not None and (row.state, row.superseded_by) != ("superseded", newest.data["item_id"]):
        title = f"DISORDER: an older version arrived late, but case {row.case_id} is {row.state}"
        yield Violation(6, title, (str(newest), str(event), str(row)))


def _numbered(events: Iterable[Event]) -> list[Event]:
    return sorted(events, key=lambda event: int(event.data["n"]))


def _published(event: Event) -> DecisionRow:
    data = event.data
    return DecisionRow(
        data["case_id"],
        data["n"],
        data["decision_id"],
        data["action"],
        tuple(data.get("reasons", ())),
        data["policy_set"],
        data["automated"],
        data.get("reviewer", ""),
        data.get("team", ""),
        data.get("lease_token", 0),
        data.get("note", ""),
    )


def _tallies(facts: Facts, region: str, cell: Cell) -> Iterator[Violation]:
    first = [row for row in cell.decisions if row.n == 1]
    opened = facts.opened[region]
    counted = Counter(f"{_decided_by(opened.get(row.case_id), row)}/{row.action}" for row in first)
    counted["decided"] = len(first)
    counted.update(row.state for row in cell.cases if row.state in _UNDECIDED)
    if +counted != cell.tallies:
        yield Violation(
            2, f"{region} has wrong counts of its decisions", (f"stored {cell.tallies}", f"counted {dict(+counted)}")
        )


def _decided_by(opened: Event | None, row: DecisionRow) -> str:
    if opened is not None and opened.data.get("case_type") == APPEAL:
        return "appeals"
    return "policy" if row.automated else "people"


def _repeats_are_repeats(facts: Facts) -> Iterator[Violation]:
    for region in facts.regions:
        first = {event.id: event for event in facts.stage("decisions", region)}
        for event in facts.events["decisions", region]:
            if event.data != first[event.id].data:
                title = f"event {event.id} was published twice with different content"
                yield Violation(2, title, (str(first[event.id]), str(event)))


def _letters_audited(facts: Facts, region: str) -> Iterator[Violation]:
    rows = Counter((row[:3], row.group) for row in facts.history.cells[region].letters)
    published = {(letter.source, letter.group): letter for letter in facts.letters[region]}
    places = Counter(_as_stored(*key) for key in published)
    for (source, group), letter in published.items():
        key = _as_stored(source, group)
        if rows[key] not in (1, places[key]):  # the table keeps one dead letter of several generations of a topic
            yield Violation(
                4, f"AUDIT GAP: a dead letter is {rows[key]} times in {region}'s audit", (str(letter.record),)
            )
    planted = {_as_stored(place, "")[0] for place in facts.planted}
    for key in rows:
        if key not in places and key[0] not in planted:
            yield Violation(4, f"{region}'s audit has a dead letter that is in no topic", (str(key),))


def _as_stored(place: Place, group: str) -> tuple[Place, str]:
    """A place as Kafka and the tables have it: without the generation of its topic."""
    return (*place[:2], place[2] % GENERATION), group


def _one_partition_a_subject(facts: Facts) -> Iterator[Violation]:
    where: dict[tuple[str, str], Event] = {}
    for events in facts.events.values():
        for event in events:
            first = where.setdefault((event.record.topic, event.subject), event)
            if first.record.partition != event.record.partition:
                yield Violation(6, f"DISORDER: {event.subject} is in two partitions", (str(first), str(event)))


def _posted_in_order(facts: Facts, region: str) -> Iterator[Violation]:
    """If an item was accepted before another item of its subject was posted, it is earlier in the topic."""
    firsts: dict[str, list[tuple[Posted, Event]]] = defaultdict(list)
    for item, posts in facts.posts.items():
        event = facts.submissions[region].get(item)
        if event is not None and posts:
            firsts[event.subject].append((min(posts, key=lambda p: p.call.sent_at), event))
    answered: dict[str, list[tuple[float, Posted, Event]]] = defaultdict(list)
    for item, posts in facts.posts.items():
        event = facts.submissions[region].get(item)
        accepted = [p for p in posts if p.outcome == "accepted" and p.call.answered_at is not None]
        accepted = [p for p in accepted if region in p.verdict.get("regions", [region])]
        if event is not None and accepted:
            early = min(accepted, key=lambda p: p.call.answered_at or 0.0)
            answered[event.subject].append((early.call.answered_at or 0.0, early, event))
    for subject, sent in firsts.items():
        published = sorted(answered[subject], key=lambda entry: entry[0])
        index, latest = 0, None
        for posted, event in sorted(sent, key=lambda entry: entry[0].call.sent_at):
            while index < len(published) and published[index][0] < posted.call.sent_at:
                if latest is None or published[index][2].record.offset > latest[2].record.offset:
                    latest = published[index]
                index += 1
            if latest is not None and latest[2].record.offset > event.record.offset:
                title = f"DISORDER: {subject} in {region}: an item that was posted later is earlier in the topic"
                yield Violation(6, title, (str(latest[1]), str(latest[2]), str(posted), str(event)))


def _published_in_order(facts: Facts, region: str, old: Event, new: Event) -> Iterator[Violation]:
    life = facts.lives[region].get(old.data["case_id"], [])
    before = [
        event for event in life if event.name != "decision.replaced"
    ]  # a replacement follows its appeal, even if the appeal is late
    after = facts.lives[region].get(new.data["case_id"], [])
    if before and after and before[-1].record.offset > after[0].record.offset:
        title = f"DISORDER: of {old.subject}, the newer version's events in {region} are before the older one's"
        yield Violation(6, title, (str(old), str(new), str(before[-1]), str(after[0])))


def _separated(facts: Facts) -> Iterator[Violation]:
    for region in facts.regions:
        for row in facts.history.cells[region].log:
            if row.region not in (region, "global"):
                yield Violation(7, f"LEAK: an event of {row.region} is in {region}'s audit log", (str(row),))
        for letter in facts.letters[region]:
            if letter.source[0] != "piepowder.control" and not letter.source[0].endswith(f".{region}"):
                yield Violation(
                    7, f"LEAK: a record of {letter.source[0]} is in {region}'s dead letters", (str(letter),)
                )
    for status in facts.history.statuses:
        if status.item_id not in facts.submissions.get(status.region, {}):
            posted = facts.posts.get(status.item_id, [])
            if posted and not any(status.region in facts.possible_regions_of(one) for one in posted):
                yield Violation(7, f"LEAK: a status in {status.region}", (str(status), *map(str, posted[:1])))


def _rules_of(opened: Event) -> tuple[str, str]:
    """The policy set and the operating model of a case."""
    trace = opened.data["trace"]
    return trace["policy_set"], trace.get("operating_model", "")


def _openings_under_other_rules(before: History, after: History) -> set[str]:
    """The ids of events that a replay created, and that open a known case under rules that never opened it before."""
    known: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for event in _replayed(before):
        if event.name == OPENED:
            known[event.data["case_id"]].add(_rules_of(event))
    openings = [event for event in _replayed(after) if event.name == OPENED]
    return {
        event.id
        for event in openings
        if (rules := known.get(event.data["case_id"])) is not None and _rules_of(event) not in rules
    }


def _judged(opened: Event) -> tuple[object, ...]:
    data = opened.data
    return data["verdict"], data.get("reasons"), data["queue"], data["priority"], data["trace"]


def _status(facts: Facts, region: str, item: str, submitted: Event) -> str:
    case_id = derived("case", item, region, "item")
    life = {event.name: event for event in facts.lives[region].get(case_id, [])}
    decided = [event for event in facts.lives[region].get(case_id, []) if event.name in _DECISIONS]
    if (made := max(decided, key=lambda event: int(event.data["n"]), default=None)) is not None:
        return "approved" if made.data["action"] == "approve" else "rejected"
    if "case.superseded" in life:
        return "superseded"
    if "case.closed" in life:
        return "withdrawn"
    opened = facts.opened[region].get(case_id)
    event, reader = (submitted, "router") if opened is None else (opened, "decision")
    if (letter := facts.dead_lettered(event, region, reader)) is not None:
        return "dead_lettered" if letter.since is None else "parked"
    if opened is None:
        return "submitted"
    return "in_review" if opened.data["verdict"] == "review" else "submitted"


def _keyed(rows: Iterable[tuple[object, ...]], columns: int = 1) -> dict[object, object]:
    return {row[:columns]: row for row in rows}


def _changed(what: str, before: object, after: object) -> list[Violation]:
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    return [
        Violation(5, f"a replay changed {what}", (f"before {before.get(key)}", f"after {after.get(key)}"))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    ]


def _replayed(history: History) -> Iterator[Event]:
    """The events of a history, without access events and planted records."""
    planted = {(p.topic, p.partition, p.offset) for p in history.planted}
    for record in history.records:
        stage = record.topic.split(".")[1]
        if stage in (_CALLS, "deadletters") or (record.topic, record.partition, record.offset) in planted:
            continue
        event = read_event(record)
        if isinstance(event, Event):
            yield event


def _replayable(log: Iterable[LogRow]) -> list[LogRow]:
    """All records except access events, which continue to be published during a replay."""
    return [row for row in log if row.topic.split(".")[1] != _CALLS]
