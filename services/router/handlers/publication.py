"""Publishes an operating model, a policy set or both on the control topic."""

import asyncio
from collections.abc import Sequence

import msgspec

from services.router.control import OPERATING_MODEL, POLICY_SET, ControlState
from services.router.domain.publication import (
    ControlPart,
    PolicySetContent,
    new_operating_model,
    new_policy_set,
    numbered,
    publication_faults,
    rejected,
)
from services.router.domain.routing import SOURCE
from shared.contracts import ids
from shared.contracts.envelope import GLOBAL, Attributes, encode
from shared.contracts.events import (
    OPERATING_MODEL_PUBLISHED,
    POLICY_SET_PUBLISHED,
    OperatingModelPublished,
    Region,
)
from shared.contracts.topics import CONTROL
from shared.kafka.producer import Producer, record
from shared.runtime.clock import Clock, to_text


class PublicationResult(msgspec.Struct, frozen=True):
    """The id and number in force after a publication; `changed` is False if they were in force before."""

    id: str
    number: int
    changed: bool


class NotYetInForce(Exception):  # noqa: N818 - named after the fact, not after an error
    """The publication reached Kafka, but is not in force in this process yet."""


class PublishControl:
    """Publishes one publication at a time, and waits until it is in force in this process."""

    def __init__(self, control: ControlState, producer: Producer, clock: Clock, *, apply_seconds: float = 10.0) -> None:
        self._control = control
        self._producer = producer
        self._clock = clock
        self._apply_seconds = apply_seconds
        self._lock = asyncio.Lock()

    async def publish(
        self, regions: list[Region] | None, content: PolicySetContent | None, *, by: str
    ) -> tuple[PublicationResult | None, PublicationResult | None]:
        """Check a publication, publish the parts that differ from those in force, and wait until they are in force.

        Raises InputRejected with all faults, NotYetInForce after `apply_seconds`, and Transient if Kafka did not
        accept the records.
        """
        async with self._lock:
            control = self._control
            in_force = control.snapshot
            model = policy_set = None
            if regions is not None:
                deleted = OPERATING_MODEL in control.deleted
                model = numbered(new_operating_model(regions, by=by), in_force.operating_model, deleted=deleted)
            if content is not None:
                deleted = POLICY_SET in control.deleted
                policy_set = numbered(new_policy_set(content, by=by), in_force.policy_set, deleted=deleted)
            faults = publication_faults(model, policy_set, in_force, control.regions, control.compile_policy_set)
            if faults:
                raise rejected(faults, "Nothing was published.")
            parts = ((model, in_force.operating_model), (policy_set, in_force.policy_set))
            await self._send([part for part, current in parts if part is not None and part is not current])
            return _result(*parts[0]), _result(*parts[1])

    async def _send(self, new: Sequence[ControlPart]) -> None:
        if not new:
            return
        time = to_text(self._clock.now())
        await self._producer.send([record(CONTROL, encode(_attributes(data, time), data)) for data in new])
        expected = {data.id for data in new}
        try:
            async with asyncio.timeout(self._apply_seconds):
                await self._control.wait_for(lambda: expected <= self._ids_in_force())
        except TimeoutError as error:
            raise NotYetInForce(
                f"{' and '.join(sorted(expected))} reached Kafka but not this router within {self._apply_seconds:g} s."
                " `GET /v1/control` shows the parts in force; sending the same publication again is safe."
            ) from error

    def _ids_in_force(self) -> set[str]:
        return {part.id for part in self._control.snapshot if part is not None}


def _result(part: ControlPart | None, current: ControlPart | None) -> PublicationResult | None:
    return None if part is None else PublicationResult(part.id, part.number, part is not current)


def _attributes(data: ControlPart, time: str) -> Attributes:
    is_model = isinstance(data, OperatingModelPublished)
    kind, subject = (OPERATING_MODEL_PUBLISHED, OPERATING_MODEL) if is_model else (POLICY_SET_PUBLISHED, POLICY_SET)
    event_id = ids.event_id(data.id, kind, data.number)
    return Attributes(event_id, kind, SOURCE, time, subject, GLOBAL, event_id)
