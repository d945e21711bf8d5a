"""What was taken in may be taken back, by the item's id alone.

A withdrawal is one more event on the topics that have the item, by the same lanes, so it stands behind the item in its
subject's order and goes the same way. It keeps no row either: its ids repeat, and the same call again is right. Which
regions have the item is read from the status projection; see `services.intake.items.read_your_writes`.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from services.intake.items.domain import status
from services.intake.items.domain.status import StatusFacts
from services.intake.items.handlers import ItemIntake, Poster
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.publishing.regions import SOURCE
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes
from shared.contracts.events import ITEM_SUBMITTED, ITEM_WITHDRAWN, ItemWithdrawn
from shared.kafka.producer import Record
from shared.kafka.producer import record as to_record
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import PiepowderError
from shared.validation.faults import Fault, Refused

MAX_REASON: Final = 500  # characters


class UnknownItem(PiepowderError):  # noqa: N818 - what the item is
    """No such item was posted before the call, in any region and for any platform of the key."""


class ItemLookup(Protocol):
    """What is known of items; see `services.intake.items.store`."""

    async def of_item(self, item_id: str) -> dict[str, StatusFacts]: ...


class PreparedWithdrawal(msgspec.Struct, frozen=True, gc=False):
    """A withdrawal with the record for each region of its item; accepted once Kafka has them all."""

    item_id: str
    subject: str
    regions: tuple[str, ...]
    event_ids: list[str]
    records: list[Record]


class Withdrawals:
    """Takes items back."""

    def __init__(self, intake: ItemIntake, *, read_your_writes: ReadYourWrites, clock: Clock) -> None:
        self._intake = intake
        self._read_your_writes = read_your_writes
        self._clock = clock

    async def withdraw(self, item_id: str, reason: str, client: Poster, statuses: ItemLookup) -> PreparedWithdrawal:
        """Have a withdrawal acknowledged in every region of the item.

        Raises UnknownItem when there is no such item for the client, Refused when it may not act in all of its regions,
        Overloaded when there is no room; Transient when the database or Kafka is away or the projection is too far
        behind to tell. After Transient the same again is right.
        """
        withdrawal = self._prepare(item_id, reason, client, await self._find(item_id, client, statuses))
        await self._intake.submit([withdrawal])
        return withdrawal

    async def _find(self, item_id: str, client: Poster, statuses: ItemLookup) -> dict[str, StatusFacts]:
        """What is known of an item, its submission in some region at least."""

        async def look() -> dict[str, StatusFacts] | None:
            known = await statuses.of_item(item_id)
            return known if _is_found(known, client) else None

        found = await self._read_your_writes.find(
            look,
            topics=lambda region: [topics.submissions(region)],
            regions=self._read_your_writes.regions,
            doubt=f"Item {item_id} is not known; what was posted last is not in the status yet, so it may be there.",
        )
        if found is None:
            raise UnknownItem(f"No item {item_id} is known to this key, in its regions and for its platforms.")
        return found

    def _prepare(
        self, item_id: str, reason: str, client: Poster, known: Mapping[str, StatusFacts]
    ) -> PreparedWithdrawal:
        regions = tuple(sorted(status.submitted_to(known)))
        for region in regions:
            if not client.may_act_in(region):
                allowed = ", ".join(sorted(client.regions))
                detail = f"the item was submitted to region {region!r} too; client {client.name!r} may act in {allowed}"
                raise Refused(403, "region-not-allowed", "The key may not act in this region", [Fault("", detail)])
            if region not in self._read_your_writes.regions:
                serves = ", ".join(self._read_your_writes.regions)
                detail = f"the item was submitted to region {region!r}; this intake serves {serves}"
                raise Refused(422, "region-not-served", "The region is not served here", [Fault("", detail)])
        subject = status.subject(known)
        platform, kind, subject_id = subject.split(":", 2)
        now = to_text(self._clock.now())
        withdrawn = ItemWithdrawn(
            item_id=item_id,
            platform=platform,
            kind=kind,
            subject_id=subject_id,
            version=next(facts.submission.version for facts in known.values() if facts.submission is not None),
            client=client.name,
            reason=reason,
            withdrawn_at=now,
            regions=list(regions),
        )
        event_ids, records = [], []
        for region in regions:
            submitted = ids.event_id(item_id, ITEM_SUBMITTED, region)
            event_id = ids.event_id(item_id, ITEM_WITHDRAWN, region)
            attributes = Attributes(event_id, ITEM_WITHDRAWN, SOURCE, now, subject, region, submitted, submitted)
            event_ids.append(event_id)
            records.append(to_record(topics.submissions(region), envelope.encode(attributes, withdrawn)))
        return PreparedWithdrawal(item_id, subject, regions, event_ids, records)


def _is_found(known: Mapping[str, StatusFacts], client: Poster) -> bool:
    """Whether it is known where the item was submitted to, and the client may know of it."""
    return (
        bool(status.submitted_to(known))
        and any(client.may_act_in(region) for region in known)
        and client.may_act_for(status.platform(known))
    )
