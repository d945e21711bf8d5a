"""The work of a peer on a record: the router's own functions without its infrastructure."""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.router.domain.routing import OperatingModel, opening_id, route
from services.router.policies import compile_policy_set
from shared.contracts import envelope
from shared.contracts.envelope import Attributes, Encoded, Event
from shared.contracts.events import CASE_OPENED, ItemSubmitted
from shared.runtime.clock import SystemClock, to_text
from tests.bench import data
from tests.bench.data import REGION

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord


class Routing:
    """The routing of a submission record to its case, with the bench's operating model and twenty policies."""

    def __init__(self) -> None:
        model, policy_set = data.published()
        self._model = OperatingModel(model)
        self._policy_set = compile_policy_set(policy_set)
        self._clock = SystemClock()

    def read(self, record: "ConsumerRecord[bytes | None, bytes | None]") -> Event[ItemSubmitted]:
        """The submission in a record; raises Poison if it is not one of the region."""
        return envelope.decode(record.headers, record.key, record.value, region=REGION)

    def case(self, event: Event[ItemSubmitted]) -> Encoded:
        """The event that opens the case; raises Poison if the item cannot be routed."""
        submitted, cause = event.data, event.attributes
        case = route(submitted, REGION, self._policy_set, self._model)
        attributes = Attributes(
            opening_id(cause.id, CASE_OPENED, case.trace),
            CASE_OPENED,
            f"piepowder/router/{REGION}",
            to_text(self._clock.now()),
            cause.subject,
            REGION,
            cause.correlation_id,
            cause.id,
            cause.traceparent,
        )
        return envelope.encode(attributes, case)


def partition(key: bytes | None, partitions: Sequence[int], _: Sequence[int]) -> int:
    """The partition of a key, in the form that aiokafka's producer needs."""
    return partitions[zlib.crc32(key or b"") % len(partitions)]
