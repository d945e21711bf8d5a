"""The operating model and the policy set in force in this process.

Both are records of the compacted control topic. Every router reads them from it, including the router that published
them. A publication is checked as a whole before it is sent (`domain.publication`) and goes out in one batch, the
operating model first. Between its two records, cases of a queue that no longer exists go to the default queue.
Numbers only grow, so reading the topic again from its start brings no old record back into force. If two routers
publish different content under one number, the first record of the topic is in force everywhere. The submissions of a
region that the model does not have are not read: they wait in their topic for a model that has the region.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from services.router.domain.publication import (
    CompilePolicySet,
    ControlPart,
    ControlSnapshot,
    first_fault,
    operating_model_faults,
    policy_set_faults,
)
from services.router.domain.routing import InvalidConditions, InvalidTerms, OperatingModel, PolicySet, RulesInForce
from shared.contracts.envelope import Event
from shared.contracts.events import OperatingModelPublished, PolicySetPublished
from shared.kafka.control import comes_into_force
from shared.runtime import metrics
from shared.runtime.errors import Poison, Transient

OPERATING_MODEL: Final = "operating-model"
POLICY_SET: Final = "policy-set"


def entity_of(part: ControlPart) -> str:
    """The subject of a part's records."""
    return OPERATING_MODEL if isinstance(part, OperatingModelPublished) else POLICY_SET


class ControlState:
    """Applies the records of the control topic, and holds the parts in force.

    `regions` are the regions routed by this process.
    """

    def __init__(self, regions: Sequence[str], compile_policy_set: CompilePolicySet) -> None:
        self.operating_model: OperatingModel | None = None
        self.policy_set: PolicySet | None = None
        self.deleted: set[str] = set()
        self.regions = regions
        self.compile_policy_set = compile_policy_set
        self._complete = asyncio.Event()
        self._changed = asyncio.Event()
        self._outcomes: dict[str, bool] = {}
        self._overtaken: set[str] = set()

    @property
    def snapshot(self) -> ControlSnapshot:
        """The contents in force now."""
        return ControlSnapshot(
            None if self.operating_model is None else self.operating_model.published,
            None if self.policy_set is None else self.policy_set.published,
        )

    @property
    def slow_conditions(self) -> int:
        """The number of slow conditions in force."""
        return 0 if self.policy_set is None else len(self.policy_set.slow_conditions)

    @property
    def rules(self) -> RulesInForce:
        """The rules for routing; raises Transient while one of them is missing."""
        if self.operating_model is None or self.policy_set is None:
            raise Transient(f"Nothing is routed: {self._missing()}.")
        return RulesInForce(self.operating_model, self.policy_set)

    def routes(self, region: str) -> bool:
        """True if the operating model in force has the region."""
        return self.operating_model is not None and region in self.operating_model.regions

    def apply(self, event: Event[Any]) -> None:
        """Bring a record into force; for an invalid record, raise Poison and keep the previous record in force.

        A record with the number of the one in force and another id is invalid: another router was first.
        """
        data = event.data
        if not isinstance(data, OperatingModelPublished | PolicySetPublished):
            return
        try:
            if comes_into_force(data, self.in_force(data), deleted=entity_of(data) in self.deleted):
                self._bring_into_force(data)
        finally:
            self._note(data)

    def in_force(self, part: ControlPart) -> ControlPart | None:
        """The part in force of the same kind."""
        model, policy_set = self.snapshot
        return model if isinstance(part, OperatingModelPublished) else policy_set

    def outcome(self, part: str) -> bool | None:
        """True if the record with this id came into force, False if it did not, None if it was not read yet."""
        return self._outcomes.get(part)

    @property
    def overtaken(self) -> list[ControlPart]:
        """The parts in force after whose record the topic has one that came too late to come into force.

        Compaction will keep only the last record, so the part in force must be sent again.
        """
        return [part for part in self.snapshot if part is not None and entity_of(part) in self._overtaken]

    def _bring_into_force(self, data: ControlPart) -> None:
        if isinstance(data, OperatingModelPublished):
            if faults := operating_model_faults(data.regions):
                raise Poison(f"operating model {data.id}: {first_fault(faults)}")
            self.operating_model = OperatingModel(data)
        else:
            if faults := policy_set_faults(data):
                raise Poison(f"policy set {data.id}: {first_fault(faults)}")
            try:
                self.policy_set = self.compile_policy_set(data)
            except (InvalidConditions, InvalidTerms) as error:
                raise Poison(f"policy set {data.id} does not compile here: {error}") from error
        self.deleted.discard(entity_of(data))
        metrics.CONTROL_IN_FORCE.labels(entity_of(data)).set(data.number)

    def _note(self, data: ControlPart) -> None:
        current = self.in_force(data)
        is_in_force = current is not None and current.id == data.id
        self._outcomes.setdefault(data.id, is_in_force)
        self._overtaken.discard(entity_of(data))
        if current is not None and not is_in_force and data.number <= current.number:
            self._overtaken.add(entity_of(data))
        self._changed.set()
        self._changed = asyncio.Event()

    def delete(self, entity: str) -> None:
        """Note that an entity was deleted from the topic: it stays in force until a record with any number comes."""
        self.deleted.add(entity)
        self._overtaken.discard(entity)

    def caught_up(self) -> str | None:
        """Note that the topic was read to its end; return the unmet condition of readiness, None if all are met."""
        missing = self._missing()
        if missing is None:
            self._complete.set()
        return missing

    async def wait_complete(self) -> None:
        """Wait until the topic was read to its end and an operating model and a policy set are in force."""
        await self._complete.wait()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is evaluated after each record."""
        while not condition():
            await self._changed.wait()

    def _missing(self) -> str | None:
        parts = (("operating model", self.operating_model), ("policy set", self.policy_set))
        missing = [name for name, part in parts if part is None]
        if not missing:
            return None
        return f"no {' and no '.join(missing)} in force: publish with `piepowder control publish`"
