"""The parts that all use cases have in common."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from services.decision import metrics
from services.decision.domain import rejections
from services.decision.domain.cases import Case
from shared.contracts import topics
from shared.contracts.envelope import Encoded, Event, encode
from shared.validation.faults import InputRejected


class PublishPort(Protocol):
    """A transaction that publishes (topic, event) pairs after its commit."""

    async def publish(self, published: Sequence[tuple[str, Encoded]]) -> None: ...


class CasePort(PublishPort, Protocol):
    """A transaction that changes cases. A case is read with its row locked, and with the time after the lock.

    New claims get tokens from `first_token` on; lower tokens that a case does not know were lost in a restore.
    """

    first_token: int

    async def case(self, case_id: str) -> tuple[Case, datetime] | None: ...

    async def save(self, cases: Sequence[Case]) -> None: ...


Port = TypeVar("Port", bound=PublishPort)


class UseCases(Generic[Port]):
    """Use cases of a region. `begin` opens a transaction; `wake` notifies the outbox relay of committed events."""

    def __init__(
        self, begin: Callable[[], AbstractAsyncContextManager[Port]], *, region: str, wake: Callable[[], None]
    ) -> None:
        self._begin: Callable[[], AbstractAsyncContextManager[Port]] = lambda: _counted(begin, region)
        self._region = region
        self._wake = wake

    async def _publish(self, transaction: Port, events: Sequence[Event[Any]]) -> None:
        topic = topics.decisions(self._region)
        await transaction.publish([(topic, encode(event.attributes, event.data)) for event in events])


@asynccontextmanager
async def _counted(begin: Callable[[], AbstractAsyncContextManager[Port]], region: str) -> AsyncIterator[Port]:
    """The transaction of `begin`; counts a command that is refused because its lease was lost in a restore."""
    try:
        async with begin() as transaction:
            yield transaction
    except InputRejected as rejected:
        if rejected.slug == rejections.LOST_IN_RESTORE.slug:
            metrics.LOST_IN_RESTORE.labels(region).inc()
        raise
