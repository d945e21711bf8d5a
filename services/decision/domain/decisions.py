"""The rules of reviewers' decisions."""

from datetime import datetime
from typing import NamedTuple

from services.decision.domain import appeals, reasons, rejections
from services.decision.domain.case_events import EventLinks, case_event, claim_event_id, decision_made
from services.decision.domain.cases import ACTIONS_BY_CASE_TYPE, Case, Decision
from services.decision.domain.leases import transition_under_lease, without_holder
from services.decision.domain.lifecycle import DECIDE
from services.decision.domain.reasons import ReasonCodes
from services.decision.domain.recovery import incarnation_of
from shared.contracts import events, ids
from shared.contracts.envelope import Event
from shared.runtime.clock import to_text


class DecideCommand(NamedTuple):
    """A reviewer's decision under lease `token`; `reviewer` is "" when the caller does not name one."""

    token: int
    action: str
    reasons: list[str]
    note: str = ""
    reviewer: str = ""


def decide(
    region: str,
    case: Case,
    made: Decision | None,
    now: datetime,
    command: DecideCommand,
    *,
    codes: ReasonCodes | None,
    decision_in_force: Decision | None = None,
    first_token: int = 0,
) -> tuple[Case, Decision, Event[events.DecisionMade] | None]:
    """Decide a case that is held under the command's token.

    `made` is the first decision of a case that is decided already; an exact repeat returns it, without an event. For an
    appeal, `decision_in_force` is the decision in force on the appealed case. `codes` are the reason codes of the
    policy set in force, None without one. `first_token` is the lowest token of new claims. Raises InputRejected when
    the lease is not held, the case has ended without a decision, the action is not allowed for this case or this
    reviewer, or a reason code is unknown. The codes of a repeat are not checked: another set may be in force now.
    """
    allowed = ACTIONS_BY_CASE_TYPE[case.opened.case_type]
    if command.action not in allowed:
        detail = f"Case {case.case_id} is of type {case.opened.case_type!r}: expected {' or '.join(sorted(allowed))}."
        raise rejections.WRONG_ACTION.with_message(detail, "/action")
    if made is not None:
        if _is_repeat(command, made):
            return case, made, None
        by = "by a policy" if made.automated else "by a reviewer"
        detail = f"Case {case.case_id} was decided already: {made.action}, {by}."
        raise rejections.ALREADY_DECIDED.with_message(detail)
    decided = transition_under_lease(
        case, DECIDE, now, token=command.token, reviewer=command.reviewer, first_token=first_token
    )
    if case.opened.appeal is not None:
        named_decision = case.opened.appeal.decision
        appeals.require_may_decide(case, named_decision, decision_in_force, command.action, command.reasons)
    reasons.require_known(codes, command.reasons)
    decision = Decision(
        decision_id=ids.decision_id(case.case_id, 1, incarnation_of(first_token)),
        case_id=case.case_id,
        n=1,
        action=command.action,
        reasons=command.reasons,
        policy_set=case.opened.trace.policy_set,
        automated=False,
        reviewer=case.reviewer,
        team=case.team,
        lease_token=command.token,
        note=command.note,
        decided_at=now,
    )
    links = EventLinks(case.subject, case.correlation_id, claim_event_id(case))
    data = decision_made(decision, case.opened)
    event = case_event(region, to_text(now), links, decided.event_type, data, n=decision.n)
    return without_holder(case, decided), decision, event


def _is_repeat(command: DecideCommand, made: Decision) -> bool:
    return (
        made.lease_token == command.token
        and command.reviewer in ("", made.reviewer)
        and (made.action, made.reasons, made.note) == (command.action, command.reasons, command.note)
    )
