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
    """The reason codes of the policy set in force; `codes` is None until one is in force."""

    def __init__(self) -> None:
        self.codes: ReasonCodes | None = None
        self._read: ReasonCodes | None = None
        self._current: Numbered | None = None
        self._deleted = False

    def apply(self, event: Event[Any]) -> None:
        """Note a policy set, unless a later one was read; `caught_up` brings it into force.

        Other events change nothing. Raises Poison for another set with the number of the one that was read.
        """
        published = event.data
        if not isinstance(published, PolicySetPublished):
            return
        if comes_into_force(published, self._current, deleted=self._deleted):
            self._read, self._current, self._deleted = ReasonCodes(published), published, False

    def caught_up(self) -> None:
        """Bring the last policy set into force: the control topic was read to its end."""
        self.codes = self._read

    def delete(self, entity: str) -> None:
        """Note that an entity was deleted from the topic: the set stays in force until one with any number comes."""
        self._deleted = self._deleted or entity == _POLICY_SET
