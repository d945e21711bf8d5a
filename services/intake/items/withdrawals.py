"""Withdrawal of items, by item id.

A withdrawal is an event on the topics that contain the item. It is published like the item, so that it follows the item
in the order of its subject. It writes no row; a repetition produces the same ids. The regions of the item come from the
status projection, read with `services.intake.items.read_your_writes`. An item that was posted again after one of its
markets moved is in a further region, which the projection may not know yet. So if the operating model gives the item
another region than the known ones, the call waits for the projection. Regions that have left the operating model get no
event: nothing reads their topics, and they left without an open case.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from services.intake.errors import NOT_FOUND
from services.intake.items.domain import status
from services.intake.items.domain.status import StatusFacts
from services.intake.items.handlers import ItemIntake
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.publishing.regions import SOURCE, Publishable
from shared.auth.principal import REGION_NOT_ALLOWED, Principal
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes
from shared.contracts.events import ITEM_SUBMITTED, ITEM_WITHDRAWN, ItemWithdrawn
from shared.kafka.producer import record as to_record
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Transient
from shared.validation.faults import RejectionType

REGION_NOT_SERVED: Final = RejectionType(
    "region-not-served",
    422,
    "The region is not served here",
    "the item was submitted to region 'uk'; this service accepts items for eu, us",
)
MAX_REASON: Final = 500  # characters


class ItemLookup(Protocol):
    """Reads the facts about items: `services.intake.items.store`."""

    async def of_item(self, item_id: str) -> dict[str, StatusFacts]: ...


class PreparedWithdrawal(Publishable, frozen=True, kw_only=True, gc=False):
    """A valid withdrawal."""

    item_id: str


class Withdrawals:
    """Withdraws items."""

    def __init__(
        self, intake: ItemIntake, statuses: ItemLookup, *, read_your_writes: ReadYourWrites, clock: Clock
    ) -> None:
        self._intake = intake
        self._statuses = statuses
        self._read_your_writes = read_your_writes
        self._clock = clock

    async def withdraw(self, item_id: str, reason: str, client: Principal) -> PreparedWithdrawal:
        """Publish a withdrawal in every region of the item that the operating model has.

        Raises InputRejected when the client has no such item, may not act in every such region of the item, or there is
        none; Overloaded when the queue is full; Transient when the database or Kafka does not respond, no operating
        model is in force, or the projection is too far behind. The client can repeat the call after Transient.
        """
        withdrawal = self._prepare(item_id, reason, client, await self._find(item_id, client))
        await self._intake.submit([withdrawal])
        return withdrawal

    async def _find(self, item_id: str, client: Principal) -> dict[str, StatusFacts]:
        """The facts about an item, with its submission in at least one region."""

        known: dict[str, StatusFacts] = {}

        async def look() -> dict[str, StatusFacts] | None:
            nonlocal known
            known = await self._statuses.of_item(item_id)
            return known if _is_found(known, client) and self._has_all_regions(known) else None

        await self._read_your_writes.find(
            look,
            topics=lambda region: [topics.submissions(region)],
            regions=self._read_your_writes.regions,
            doubt=f"The status does not include the latest submissions yet, so it is not certain in which regions item"
            f" {item_id} is.",
        )
        if not _is_found(known, client):
            raise NOT_FOUND.with_message(
                f"No item {item_id} is known to this key, in its regions and for its platforms."
            )
        return known

    def _has_all_regions(self, facts_by_region: Mapping[str, StatusFacts]) -> bool:
        """True if the item is known in each region that would get it now."""
        ownership, submitted_to = self._intake.ownership, status.submitted_to(facts_by_region)
        now = () if ownership is None else ownership.regions(status.markets(facts_by_region))
        return bool(submitted_to) and submitted_to.issuperset(now)

    def _prepare(
        self, item_id: str, reason: str, client: Principal, facts_by_region: Mapping[str, StatusFacts]
    ) -> PreparedWithdrawal:
        ownership = self._intake.ownership
        if ownership is None:
            raise Transient("No operating model is in force yet.")
        submitted_to = sorted(status.submitted_to(facts_by_region))
        regions = tuple(region for region in submitted_to if ownership.has(region))
        if not regions:
            raise REGION_NOT_SERVED(
                f"the item was submitted to {', '.join(submitted_to)}, and no such region is in the operating model any"
                " more; regions leave it without open cases, so nothing is left to withdraw"
            )
        for region in regions:
            if not client.may_act_in(region):
                raise REGION_NOT_ALLOWED(
                    f"the item was submitted to region {region!r} too; {client.described_regions()}"
                )
            if region not in self._read_your_writes.regions:
                serves = ", ".join(self._read_your_writes.regions)
                raise REGION_NOT_SERVED(
                    f"the item was submitted to region {region!r}; this service accepts items for {serves}"
                )
        subject = status.subject(facts_by_region)
        platform, kind, subject_id = subject.split(":", 2)
        now = to_text(self._clock.now())
        withdrawn = ItemWithdrawn(
            item_id=item_id,
            platform=platform,
            kind=kind,
            subject_id=subject_id,
            version=next(
                facts.submission.version for facts in facts_by_region.values() if facts.submission is not None
            ),
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
        return PreparedWithdrawal(
            item_id=item_id, subject=subject, regions=regions, event_ids=event_ids, records=records
        )


def _is_found(facts_by_region: Mapping[str, StatusFacts], client: Principal) -> bool:
    """True if the regions of the item are known, and the client may see the item."""
    return (
        bool(status.submitted_to(facts_by_region))
        and any(client.may_act_in(region) for region in facts_by_region)
        and client.may_act_for(status.platform(facts_by_region))
    )
