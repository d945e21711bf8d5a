"""The rules of leases.

A lease is identified by its token, which grows with every claim of a case: a reviewer who held an earlier lease cannot
act under it (a fencing token). All times are the database's, because the replicas must agree on the end of a lease.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from services.decision.domain import rejections
from services.decision.domain.case_events import EventLinks, case_event, claim_event_id
from services.decision.domain.cases import CLAIMED, OPEN_STATES, WAITING, Case
from services.decision.domain.lifecycle import CLAIM, EXPIRE, HEARTBEAT, RELEASE, CaseTransition, transition
from shared.contracts import events
from shared.contracts.envelope import Event
from shared.runtime.clock import to_text

_LONGEST_WAIT: Final = 30  # seconds; a case can be decided or released before its lease ends


class LeaseLimits(NamedTuple):
    """The maximum number of open leases of one reviewer, and of one client with all of its API keys."""

    reviewer: int = 50
    client: int = 1_000


class OpenLeases(NamedTuple):
    """The open leases of a reviewer and of a client, and the seconds until the first of them ends.

    `uncounted` is the maximum number of claims of the client that are in progress and not counted.
    """

    reviewer: int
    client: int
    seconds: float = 0.0
    uncounted: int = 0


class ClaimCommand(NamedTuple):
    """A reviewer's claim of a case for `seconds`, with an API key of `client`. `key` and the hash of the request's
    `body` identify a repeat. `only` are the ids of the cases to choose from (none: all of the queues), `skipped` the
    ids of cases to leave in their queues."""

    reviewer: str
    team: str
    seconds: int
    key: str | None = None
    body: str | None = None
    client: str = ""
    only: Sequence[str] = ()
    skipped: Sequence[str] = ()


def require_room(limits: LeaseLimits, held: OpenLeases, command: ClaimCommand) -> None:
    """Raises InputRejected when the reviewer or the client holds as many leases as allowed."""
    if held.reviewer >= limits.reviewer:
        holder, limit = f"Reviewer {command.reviewer!r}", limits.reviewer
    elif held.client >= limits.client:
        holder, limit = f"Client {command.client!r}", limits.client
    else:
        return
    detail = f"{holder} holds {limit} open leases, which is the limit. Decide or release cases, then claim again."
    wait = min(max(1, math.ceil(held.seconds)), _LONGEST_WAIT)
    raise rejections.TOO_MANY_LEASES.with_message(detail, retry_after=wait)


def claim(
    region: str, case: Case, now: datetime, command: ClaimCommand, *, first_token: int = 0
) -> tuple[Case, Event[events.CaseClaimed]]:
    """Lease a waiting case to a reviewer, under the next token, which is `first_token` or larger."""
    claimed = transition(case, CLAIM)
    until = now + timedelta(seconds=command.seconds)
    held = msgspec.structs.replace(
        case,
        state=claimed.state,
        lease_token=max(case.lease_token + 1, first_token),
        lease_until=until,
        reviewer=command.reviewer,
        team=command.team,
        claim_key=command.key,
        claim_body=command.body,
        claim_client=command.client,
    )
    data = events.CaseClaimed(**_lease_fields(held), lease_until=to_text(until))
    return held, _event(region, held, now, claimed.event_type, data)


def heartbeat(case: Case, now: datetime, *, token: int, seconds: int, reviewer: str = "", first_token: int = 0) -> Case:
    """Extend the lease to `seconds` from now.

    Raises InputRejected when `token` does not hold the case any more, or `reviewer` is named and is another person.
    """
    extended = transition_under_lease(case, HEARTBEAT, now, token=token, reviewer=reviewer, first_token=first_token)
    return msgspec.structs.replace(case, state=extended.state, lease_until=now + timedelta(seconds=seconds))


def release(
    region: str, case: Case, now: datetime, *, token: int, reason: str, reviewer: str = "", first_token: int = 0
) -> tuple[Case, Event[events.CaseReleased] | None]:
    """Return the case to its queue. A repeated release changes nothing and has no event. Raises like `heartbeat`."""
    if case.state == WAITING and case.lease_token == token and case.lease_until is None and token > 0:
        return case, None
    released = transition_under_lease(case, RELEASE, now, token=token, reviewer=reviewer, first_token=first_token)
    waiting = msgspec.structs.replace(without_holder(case, released), lease_until=None)
    data = events.CaseReleased(**_lease_fields(case), reason=reason)
    return waiting, _event(region, case, now, released.event_type, data)


def expire(region: str, case: Case, now: datetime) -> tuple[Case, Event[events.CaseExpired]]:
    """Return a claimed case, whose lease has expired, to its queue."""
    expired = transition(case, EXPIRE)
    data = events.CaseExpired(**_lease_fields(case))
    return without_holder(case, expired), _event(region, case, now, expired.event_type, data)


def transition_under_lease(
    case: Case, command: str, now: datetime, *, token: int, reviewer: str, first_token: int = 0
) -> CaseTransition:
    """The effect of a command that needs the lease `token`.

    Raises InputRejected when the case has ended, or when `token` (or a named `reviewer`) does not hold it. A token that
    the case does not know and that is lower than `first_token` was lost in a restore of the database.
    """
    if case.state in OPEN_STATES:
        if case.lease_token < token < first_token:
            detail = f"Lease {token} of case {case.case_id} was lost when the database was restored. Claim again."
            raise rejections.LOST_IN_RESTORE.with_message(detail)
        _require_lease(case, token, reviewer, now)
    return transition(case, command)


def without_holder(case: Case, change: CaseTransition) -> Case:
    """The case in its next state, held by nobody."""
    return msgspec.structs.replace(case, state=change.state, reviewer="", team="", claim_key=None, claim_body=None)


def _require_lease(case: Case, token: int, reviewer: str, now: datetime) -> None:
    if token != case.lease_token or (case.state == CLAIMED and reviewer not in ("", case.reviewer)):
        holder = f" for {reviewer!r}" if reviewer else ""
        detail = f"Token {token} does not hold case {case.case_id}{holder} (any more). Claim again."
        raise rejections.WRONG_LEASE_TOKEN.with_message(detail)
    if case.lease_until is None:
        detail = f"Lease {token} of case {case.case_id} was released. Claim again."
        raise rejections.LEASE_RELEASED.with_message(detail)
    if case.state == WAITING or case.lease_until <= now:
        detail = f"Lease {token} of case {case.case_id} has expired. Claim again."
        raise rejections.LEASE_EXPIRED.with_message(detail)


def _lease_fields(case: Case) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "case_type": case.opened.case_type,
        "item_id": case.opened.item_id,
        "queue": case.opened.queue,
        "reviewer": case.reviewer,
        "team": case.team,
        "lease_token": case.lease_token,
    }


def _event(region: str, case: Case, now: datetime, event_type: str, data: Any) -> Event[Any]:
    cause = case.event_id if event_type == events.CASE_CLAIMED else claim_event_id(case)
    links = EventLinks(case.subject, case.correlation_id, cause)
    return case_event(region, to_text(now), links, event_type, data, n=case.lease_token)
