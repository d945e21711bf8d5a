"""Decisions of reviewers, and the decisions that a successful appeal replaces."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from services.decision import metrics
from services.decision.domain import appeals, decisions
from services.decision.domain.cases import DECIDED, OVERTURN, Case, Decision
from services.decision.domain.decisions import DecideCommand
from services.decision.domain.reasons import ReasonCodes
from services.decision.handlers.base import CasePort, UseCases
from shared.contracts.envelope import Event
from shared.contracts.events import Appeal
from shared.runtime.clock import from_text


class DecisionPort(CasePort, Protocol):
    """One transaction on decisions; see `services.decision.store.decisions`."""

    async def first_decision(self, case_id: str) -> Decision | None: ...

    async def current_decision(self, case_id: str) -> Decision | None: ...

    async def add_decisions(self, decisions: Sequence[Decision]) -> None: ...

    async def tally(self, counts: Mapping[str, int]) -> None: ...


class DecisionOutcome(NamedTuple):
    """A case's decision; `is_new` is False for a repeated command."""

    decision: Decision
    is_new: bool


class DecideCases(UseCases[DecisionPort]):
    """Decides claimed cases. `codes` returns the reason codes of the policy set in force, None without one."""

    def __init__(
        self,
        begin: Callable[[], AbstractAsyncContextManager[DecisionPort]],
        *,
        region: str,
        wake: Callable[[], None],
        codes: Callable[[], ReasonCodes | None],
    ) -> None:
        super().__init__(begin, region=region, wake=wake)
        self._codes = codes

    async def decide(self, case_id: str, command: DecideCommand) -> DecisionOutcome | None:
        """Decide a case; None when there is no such case. Raises InputRejected."""
        async with self._begin() as transaction:
            found = await transaction.case(case_id)
            if found is None:
                return None
            case, now = found
            made = await transaction.first_decision(case_id) if case.state == DECIDED else None
            appealed_case, decision_in_force = None, None
            if case.opened.appeal is not None:
                appealed_case, decision_in_force, now = await _lock_appealed_case(transaction, case.opened.appeal, now)
            case, decision, event = decisions.decide(
                self._region,
                case,
                made,
                now,
                command,
                codes=self._codes(),
                decision_in_force=decision_in_force,
                first_token=transaction.first_token,
            )
            if event is None:
                return DecisionOutcome(decision, is_new=False)
            new: list[Decision] = [decision]
            published: list[Event[Any]] = [event]
            if appealed_case is not None and decision_in_force is not None and command.action == OVERTURN:
                replacing, replaced = appeals.overturn(
                    self._region,
                    case,
                    decision,
                    appealed_case,
                    decision_in_force,
                    first_token=transaction.first_token,
                )
                new.append(replacing)
                published.append(replaced)
            await transaction.save([case])
            await transaction.add_decisions(new)
            await self._publish(transaction, published)
            by = "people" if case.opened.appeal is None else "appeals"
            await transaction.tally({DECIDED: 1, f"{by}/{command.action}": 1})
        self._wake()
        metrics.LEASES.labels(self._region, "decided").inc()
        metrics.DECISIONS.labels(self._region, case.opened.queue, command.action, by).inc()
        age = (now - from_text(case.opened.received_at)).total_seconds()
        metrics.DECISION_AGE.labels(self._region, "people").observe(age)
        return DecisionOutcome(decision, is_new=True)


async def _lock_appealed_case(
    transaction: DecisionPort, appeal: Appeal, now: datetime
) -> tuple[Case | None, Decision | None, datetime]:
    """The case that an appeal is about, locked, and its decision in force; each is None when it does not exist.

    The time after the lock is returned too, because the lease on the appeal may have expired during the wait.
    """
    case_id = appeal.decision.case_id
    found = await transaction.case(case_id)
    if found is None:
        return None, None, now
    return found[0], await transaction.current_decision(case_id), found[1]
