"""The rules of appeals.

An appeal is a case of its own about the decision of another case. The reviewer of the decision in force cannot decide
it, and only a decision in force can be overturned. An appeal that succeeds replaces the decision by a new decision with
the opposite action.
"""

from typing import Final

import msgspec

from services.decision.domain import rejections
from services.decision.domain.case_events import EventLinks, case_event, decision_made
from services.decision.domain.cases import APPEAL, OVERTURN, Case, Decision
from services.decision.domain.lifecycle import OVERTURN as OVERTURN_COMMAND
from services.decision.domain.lifecycle import transition
from services.decision.domain.recovery import incarnation_of
from shared.contracts import events, ids
from shared.contracts.envelope import Event
from shared.runtime.clock import to_text

REPLACED: Final = "replaced"
DUPLICATE: Final = "duplicate"

_OPPOSITE: Final = {"approve": "reject", "reject": "approve"}


class AppealedCase(msgspec.Struct, frozen=True, gc=False):
    """A case that an appeal is about: the number of its decision in force (0 for none), and whether it already has an
    open appeal."""

    n: int = 0
    has_open_appeal: bool = False


def reason_to_close(named_decision: events.Contested, appealed_case: AppealedCase) -> str:
    """The reason to close a new appeal without a decision; "" if the appeal waits for a reviewer."""
    if appealed_case.n > named_decision.n:
        return REPLACED
    return DUPLICATE if appealed_case.has_open_appeal else ""


def require_may_decide(
    appeal: Case,
    named_decision: events.Contested,
    decision_in_force: Decision | None,
    action: str,
    reasons: list[str],
) -> None:
    """Require that the holder of `appeal` may take this action; raises InputRejected.

    The appeal contests `named_decision`. A later decision on the same case, `decision_in_force`, may have replaced it.
    """
    if (
        decision_in_force is not None
        and not decision_in_force.automated
        and decision_in_force.reviewer == appeal.reviewer
    ):
        detail = (
            f"Reviewer {appeal.reviewer!r} made decision {decision_in_force.decision_id}, so another reviewer must"
            " decide the appeal about it. Release the case."
        )
        raise rejections.OWN_DECISION.with_message(detail)
    if action != OVERTURN:
        return
    if decision_in_force is None or decision_in_force.decision_id != named_decision.decision_id:
        detail = f"Decision {named_decision.decision_id} is not in force here, so it cannot be overturned."
        raise rejections.REPLACED.with_message(detail)
    if decision_in_force.action == "approve" and not reasons:
        detail = "Overturning an approval is a rejection, which needs at least one reason code."
        raise rejections.REASONS_NEEDED.with_message(detail, "/reasons")


def overturn(
    region: str,
    appeal: Case,
    overturning: Decision,
    appealed_case: Case,
    decision_in_force: Decision,
    *,
    first_token: int = 0,
) -> tuple[Decision, Event[events.DecisionReplaced]]:
    """The new decision of `appealed_case`, which replaces `decision_in_force`, and its event.

    `overturning` is the decision of the appeal. The new decision has the reviewer of `overturning` and the policy set
    of the case.
    """
    replaced = transition(appealed_case, OVERTURN_COMMAND)
    n = decision_in_force.n + 1
    decision = Decision(
        decision_id=ids.decision_id(appealed_case.case_id, n, incarnation_of(first_token)),
        case_id=appealed_case.case_id,
        n=n,
        action=_OPPOSITE[decision_in_force.action],
        reasons=overturning.reasons,
        policy_set=appealed_case.opened.trace.policy_set,
        automated=False,
        reviewer=overturning.reviewer,
        team=overturning.team,
        note=overturning.note,
        decided_at=overturning.decided_at,
    )
    data = events.DecisionReplaced(
        **msgspec.structs.asdict(decision_made(decision, appealed_case.opened)),
        replaces=decision_in_force.decision_id,
        why=APPEAL,
        appeal_id=appeal.opened.item_id,
        appeal_case_id=appeal.case_id,
    )
    cause = ids.event_id(appeal.case_id, events.DECISION_MADE, overturning.n)
    links = EventLinks(appealed_case.subject, appealed_case.correlation_id, cause)
    return decision, case_event(region, to_text(decision.decided_at), links, replaced.event_type, data, n=n)
