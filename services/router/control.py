"""The operating model and the policy set in force in this process.

Both are records of the compacted control topic. Every router reads them from it, including the router that published
them. A publication is checked as a whole before it is sent (`domain.publication`) and goes out in one batch, the
operating model first. Between its two records, cases of a queue that no longer exists go to the default queue.
Numbers only grow, so reading the topic again from its start brings no old record back into force. The submissions of a
region that the model does not have are not read: they wait in their topic for a model that has the region.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from services.router.domain.publication import (
    CompilePolicySet,
    ControlSnapshot,
    first_fault,
    operating_model_faults,
    policy_set_faults,
)
from services.router.domain.routing import InvalidConditions, InvalidTerms, OperatingModel, PolicySet, RulesInForce
from shared.contracts.envelope import Event
from shared.contracts.events import OperatingModelPublished, PolicySetPublished
from shared.runtime import metrics
from shared.runtime.errors import Poison, Transient

OPERATING_MODEL: Final = "operating-model"
POLICY_SET: Final = "policy-set"


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

    @property
    def snapshot(self) -> ControlSnapshot:
        """The contents in force now."""
        return ControlSnapshot(
            None if self.operating_model is None else self.operating_model.published,
            None if self.policy_set is None else self.policy_set.published,
        )

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
        """Bring a record into force; for an invalid record, raise Poison and keep the previous record in force."""
        data = event.data
        if isinstance(data, OperatingModelPublished):
            if self._is_old(OPERATING_MODEL, data.number, self.operating_model):
                return
            faults = operating_model_faults(data.regions)
            if faults:
                raise Poison(f"operating model {data.id}: {first_fault(faults)}")
            self.operating_model = OperatingModel(data)
        elif isinstance(data, PolicySetPublished):
            if self._is_old(POLICY_SET, data.number, self.policy_set):
                return
            faults = policy_set_faults(data)
            if faults:
                raise Poison(f"policy set {data.id}: {first_fault(faults)}")
            try:
                self.policy_set = self.compile_policy_set(data)
            except (InvalidConditions, InvalidTerms) as error:
                raise Poison(f"policy set {data.id} does not compile here: {error}") from error
        else:
            return
        self.deleted.discard(event.attributes.subject)
        metrics.CONTROL_IN_FORCE.labels(event.attributes.subject).set(data.number)
        self._changed.set()
        self._changed = asyncio.Event()

    def delete(self, entity: str) -> None:
        """Note that an entity was deleted from the topic: it stays in force until a record with any number comes."""
        self.deleted.add(entity)

    def missing(self) -> str | None:
        """Note that the topic was read to its end; return the unmet condition of readiness, None if all are met."""
        missing = self._missing()
        if missing is None:
            self._complete.set()
        return missing

    async def wait_complete(self) -> None:
        """Wait until the topic was read to its end and an operating model and a policy set are in force."""
        await self._complete.wait()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is evaluated after each change."""
        while not condition():
            await self._changed.wait()

    def _is_old(self, entity: str, number: int, current: OperatingModel | PolicySet | None) -> bool:
        return current is not None and number < current.published.number and entity not in self.deleted

    def _missing(self) -> str | None:
        parts = (("operating model", self.operating_model), ("policy set", self.policy_set))
        missing = [name for name, part in parts if part is None]
        if not missing:
            return None
        return f"no {' and no '.join(missing)} in force: publish with `piepowder control publish`"
