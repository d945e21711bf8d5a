"""The policy set in force in this process, as far as decisions need it: its reason codes.

A process is ready when it has read the control topic, also without a policy set: claims, and decisions without reasons,
need none.
"""

from typing import Any, Final

from services.decision.domain.reasons import ReasonCodes
from shared.contracts.envelope import Event
from shared.contracts.events import PolicySetPublished
from shared.kafka.control import Numbered, comes_into_force

_POLICY_SET: Final = "policy-set"


class ReasonsInForce:
    """The reason codes of the policy set in force; `codes` is None until one was read from the control topic."""

    def __init__(self) -> None:
        self.codes: ReasonCodes | None = None
        self._current: Numbered | None = None
        self._deleted = False

    def apply(self, event: Event[Any]) -> None:
        """Bring a policy set into force, unless a later one is in force; other events change nothing.

        Raises Poison for another set with the number of the one in force.
        """
        published = event.data
        if not isinstance(published, PolicySetPublished):
            return
        if comes_into_force(published, self._current, deleted=self._deleted):
            self.codes, self._current, self._deleted = ReasonCodes(published), published, False

    def delete(self, entity: str) -> None:
        """Note that an entity was deleted from the topic: the set stays in force until one with any number comes."""
        self._deleted = self._deleted or entity == _POLICY_SET
