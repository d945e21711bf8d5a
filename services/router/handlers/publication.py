"""Publishes an operating model, a policy set or both on the control topic."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from services.router.control import OPERATING_MODEL, POLICY_SET, ControlState, entity_of
from services.router.domain.publication import (
    ControlPart,
    ControlSnapshot,
    PolicySetContent,
    consistency_faults,
    first_fault,
    new_operating_model,
    new_policy_set,
    numbered,
    publication_faults,
    rejected,
)
from services.router.domain.routing import SOURCE
from services.router.handlers.leaving import RegionProgress, check_leaving_regions
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
from shared.runtime.errors import Poison, Transient
from shared.runtime.retry import wait
from shared.validation.faults import Fault

log = logging.getLogger(__name__)

_REPAIR_SECONDS: Final = 5.0


class PublicationResult(msgspec.Struct, frozen=True):
    """The id and number in force after a publication; `changed` is False if they were in force before."""

    id: str
    number: int
    changed: bool


class NotYetInForce(Exception):  # noqa: N818 - named after the fact, not after an error
    """The publication reached Kafka, but is not in force in this process yet."""


class ConflictingPublication(Exception):  # noqa: N818 - named after the fact, not after an error
    """Another router has published at the same time, under other checks."""


class PublishControl:
    """Publishes one publication at a time, and waits until it is in force in this process.

    Several routers may publish: the number of a publication is its claim to follow the one that it was checked against.
    Of two with one number, the first in the topic is in force everywhere, and the router of the other one raises
    ConflictingPublication. Compaction keeps only the last record of the topic, so `run` sends the first one again.
    """

    def __init__(
        self,
        control: ControlState,
        producer: Producer,
        clock: Clock,
        progress: RegionProgress,
        *,
        apply_seconds: float = 10.0,
    ) -> None:
        self._control = control
        self._progress = progress
        self._producer = producer
        self._clock = clock
        self._apply_seconds = apply_seconds
        self._lock = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Send a part in force again when a record that came too late follows it, until `stop` is set.

        Every router does so: the one that published may have been stopped.
        """
        before: list[ControlPart] = []
        while not stop.is_set():
            before = await self.repair(before)
            await wait(stop, _REPAIR_SECONDS)

    async def repair(self, before: Sequence[ControlPart]) -> list[ControlPart]:
        """One look at the parts that were overtaken; sends them if they were in the last look, `before`, too.

        They are overtaken for a moment while the topic is read again, or while another router's record is on its way.
        """
        overtaken = self._control.overtaken
        if overtaken and overtaken == before:
            log.warning("sent again, because a record that came too late follows: %s", overtaken[0].id)
            try:
                await self._append(overtaken)
            except (Transient, Poison) as error:
                log.warning("not sent again yet: %s", error)
        return overtaken

    async def publish(
        self, regions: list[Region] | None, content: PolicySetContent | None, *, by: str
    ) -> tuple[PublicationResult | None, PublicationResult | None]:
        """Check a publication, publish the parts that differ from those in force, and wait until they are in force.

        Raises InputRejected with all faults, ConflictingPublication if another router was first, NotYetInForce after
        `apply_seconds`, and Transient if Kafka did not accept the records, or if it is not known whether a region that
        leaves the model is drained.
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
            leaving = await check_leaving_regions(model, in_force, self._progress)
            faults = publication_faults(
                model, policy_set, in_force, control.regions, control.compile_policy_set, leaving=leaving.faults
            )
            if faults:
                raise rejected(faults, "Nothing was published.")
            if leaving.unknown is not None:
                raise leaving.unknown
            parts = ((model, in_force.operating_model), (policy_set, in_force.policy_set))
            await self._send([part for part, current in parts if part is not None and part is not current])
            return _result(*parts[0]), _result(*parts[1])

    async def _send(self, new: Sequence[ControlPart]) -> None:
        if not new:
            return
        await self._append(new)
        control, sent = self._control, sorted(part.id for part in new)
        try:
            async with asyncio.timeout(self._apply_seconds):
                await control.wait_for(lambda: all(control.outcome(part) is not None for part in sent))
        except TimeoutError as error:
            raise NotYetInForce(
                f"{' and '.join(sent)} reached Kafka but not this router within {self._apply_seconds:g} s."
                " `GET /v1/control` shows the parts in force; sending the same publication again is safe."
            ) from error
        if lost := [part for part in sent if not control.outcome(part)]:
            raise ConflictingPublication(
                f"{' and '.join(lost)} did not come into force: another router has published at the same time."
                " Compare with `GET /v1/control`, and publish again."
            )
        if faults := _pair_faults(control.snapshot):
            raise ConflictingPublication(
                f"{' and '.join(sent)} came into force, but another router has published at the same time, and the"
                f" parts in force do not fit: {first_fault(faults)}. Publish both again, corrected."
            )

    async def _append(self, parts: Sequence[ControlPart]) -> None:
        time = to_text(self._clock.now())
        await self._producer.send([record(CONTROL, encode(_attributes(part, time), part)) for part in parts])


def _pair_faults(in_force: ControlSnapshot) -> list[Fault]:
    model, policy_set = in_force
    return [] if model is None or policy_set is None else consistency_faults(model, policy_set)


def _result(part: ControlPart | None, current: ControlPart | None) -> PublicationResult | None:
    return None if part is None else PublicationResult(part.id, part.number, part is not current)


def _attributes(data: ControlPart, time: str) -> Attributes:
    kind = OPERATING_MODEL_PUBLISHED if isinstance(data, OperatingModelPublished) else POLICY_SET_PUBLISHED
    event_id = ids.event_id(data.id, kind, data.number)
    return Attributes(event_id, kind, SOURCE, time, entity_of(data), GLOBAL, event_id)
