"""Claims of cases and the leases on them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from services.decision import metrics
from services.decision.domain import leases
from services.decision.domain.cases import Case
from services.decision.domain.leases import ClaimCommand, LeaseLimits, OpenLeases
from services.decision.handlers.base import CasePort, UseCases
from shared.validation.faults import KEY_REUSED, InputRejected

MAX_EXPIRED: Final = 500  # leases that one transaction ends


class LeasePort(CasePort, Protocol):
    """One transaction on leases; see `services.decision.store.leases`."""

    async def claimed_under(self, key: str) -> tuple[Case, datetime] | None: ...

    async def next_case(
        self, queues: Sequence[str], reviewer: str, *, only: Sequence[str], skipped: Sequence[str]
    ) -> tuple[Case, datetime] | None: ...

    async def expired(self, limit: int) -> list[tuple[Case, datetime]]: ...

    async def open_leases(self, reviewer: str, client: str, *, alone: bool) -> OpenLeases: ...


class Lease(NamedTuple):
    """A claimed case, and the end of the lease by the database's clock."""

    case: Case
    until: datetime


class _NearLimit(Exception):  # noqa: N818 - a state of the client
    """Concurrent claims could exceed the client's limit: claim again without any in progress."""


class LeaseCases(UseCases[LeasePort]):
    """Claims, heartbeats, releases and expiry. Raises InputRejected when the case does not allow the command."""

    def __init__(
        self,
        begin: Callable[[], AbstractAsyncContextManager[LeasePort]],
        *,
        region: str,
        wake: Callable[[], None],
        limits: LeaseLimits = LeaseLimits(),  # noqa: B008 - immutable
    ) -> None:
        super().__init__(begin, region=region, wake=wake)
        self._limits = limits

    async def claim(self, queues: Sequence[str], command: ClaimCommand) -> Lease | None:
        """Lease the most urgent waiting case of `queues` that the command does not leave out; None when none waits.

        The same `key` with the same `body` returns the same lease while it runs. Raises InputRejected when the
        reviewer or the client holds too many leases.
        """
        try:
            return await self._claim(queues, command, alone=False)
        except _NearLimit:
            return await self._claim(queues, command, alone=True)

    async def _claim(self, queues: Sequence[str], command: ClaimCommand, *, alone: bool) -> Lease | None:
        async with self._begin() as transaction:
            held = None if command.key is None else await transaction.claimed_under(command.key)
            if held is not None and (repeated := _repeated_claim(*held, command)) is not None:
                return repeated
            await self._require_room(transaction, command, alone=alone)
            expired = 0 if held is None else await self._expire(transaction, [held])
            lease = None
            found = await transaction.next_case(queues, command.reviewer, only=command.only, skipped=command.skipped)
            if found is not None:
                case, event = leases.claim(self._region, *found, command, first_token=transaction.first_token)
                await transaction.save([case])
                await self._publish(transaction, [event])
                lease = _lease(case)
        self._committed("expired", expired)
        self._committed("claimed", int(lease is not None))
        return lease

    async def _require_room(self, transaction: LeasePort, command: ClaimCommand, *, alone: bool) -> None:
        held = await transaction.open_leases(command.reviewer, command.client, alone=alone)
        if held.client + held.uncounted >= self._limits.client and not alone:
            raise _NearLimit
        try:
            leases.require_room(self._limits, held, command)
        except InputRejected:
            limit = "reviewer" if held.reviewer >= self._limits.reviewer else "client"
            metrics.CLAIMS_REFUSED.labels(self._region, limit).inc()
            raise

    async def heartbeat(self, case_id: str, *, token: int, seconds: int, reviewer: str = "") -> Lease | None:
        """Extend the lease to `seconds` from now; None when there is no such case."""
        async with self._begin() as transaction:
            found = await transaction.case(case_id)
            if found is None:
                return None
            case = leases.heartbeat(
                *found, token=token, seconds=seconds, reviewer=reviewer, first_token=transaction.first_token
            )
            await transaction.save([case])
        return _lease(case)

    async def release(self, case_id: str, *, token: int, reason: str, reviewer: str = "") -> Case | None:
        """Return the case to its queue; None when there is no such case."""
        async with self._begin() as transaction:
            found = await transaction.case(case_id)
            if found is None:
                return None
            case, event = leases.release(
                self._region,
                *found,
                token=token,
                reason=reason,
                reviewer=reviewer,
                first_token=transaction.first_token,
            )
            if event is not None:
                await transaction.save([case])
                await self._publish(transaction, [event])
        self._committed("released", int(event is not None))
        return case

    async def expire(self) -> bool:
        """End up to `MAX_EXPIRED` leases that have expired; True if there may be more."""
        async with self._begin() as transaction:
            expired = await self._expire(transaction, await transaction.expired(MAX_EXPIRED))
        self._committed("expired", expired)
        return expired == MAX_EXPIRED

    async def _expire(self, transaction: LeasePort, found: Sequence[tuple[Case, datetime]]) -> int:
        changed = [leases.expire(self._region, case, now) for case, now in found]
        if changed:
            await transaction.save([case for case, _ in changed])
            await self._publish(transaction, [event for _, event in changed])
        return len(changed)

    def _committed(self, outcome: str, n: int) -> None:
        if n:
            metrics.LEASES.labels(self._region, outcome).inc(n)
            self._wake()


def _repeated_claim(case: Case, now: datetime, command: ClaimCommand) -> Lease | None:
    """The lease of an earlier claim with the same key, which holds `case`; None if the lease has expired."""
    if case.lease_until is None or case.lease_until <= now:
        return None
    if case.claim_body != command.body:
        detail = "This Idempotency-Key was used with another request body."
        raise KEY_REUSED.with_message(detail)
    return _lease(case)


def _lease(case: Case) -> Lease:
    assert case.lease_until is not None  # noqa: S101 - every claimed case has one
    return Lease(case, case.lease_until)
