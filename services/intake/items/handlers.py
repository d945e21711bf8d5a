"""Submission of items.

A submission writes no row to a database. An item is accepted when Kafka has acknowledged its record in every region. A
repetition of the same post produces the same ids, so a client that is unsure of the outcome sends the same post again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from services.intake.errors import require_platform
from services.intake.items.domain import posts
from services.intake.items.domain.ownership import MarketOwnership
from services.intake.items.domain.posts import INVALID_ITEM, MalformedItem
from services.intake.publishing.regions import SOURCE, ClusterPublisher, Publishable, RegionPublisher
from shared.auth.principal import REGION_NOT_ALLOWED, Principal
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes, Event
from shared.contracts.events import ITEM_SUBMITTED, OperatingModelPublished
from shared.kafka.control import Numbered, comes_into_force
from shared.kafka.producer import record as to_record
from shared.runtime.errors import Transient
from shared.runtime.metrics import CONTROL_IN_FORCE
from shared.validation.codes import Codes
from shared.validation.faults import Fault, InputRejected

_OPERATING_MODEL: Final = "operating-model"


class PreparedItem(Publishable, frozen=True, kw_only=True, gc=False):
    """A valid item."""

    item_id: str
    version: int | None
    content_hash: str


class ItemIntake:
    """Validates and submits items. `publishers` maps each region to the publisher of its Kafka cluster."""

    def __init__(self, *, codes: Codes, publishers: Mapping[str, ClusterPublisher]) -> None:
        self._codes = codes
        self._publishers = publishers
        self._publisher = RegionPublisher(publishers)
        self._topics = {region: topics.submissions(region) for region in publishers}
        self.ownership: MarketOwnership | None = None
        self._read: MarketOwnership | None = None
        self._model: Numbered | None = None
        self._deleted = False

    def apply(self, event: Event[Any]) -> None:
        """Note a published operating model, unless a later one was read; `caught_up` brings it into force.

        Other events change nothing. Raises Poison when two regions own the same market, and for another model with the
        number of the one that was read.
        """
        model = event.data
        if not isinstance(model, OperatingModelPublished):
            return
        if comes_into_force(model, self._model, deleted=self._deleted):
            self._read = MarketOwnership(model, list(self._publishers))
            self._model, self._deleted = model, False

    def delete(self, entity: str) -> None:
        """Note that an entity was deleted from the topic: the model stays in force until one with any number comes."""
        self._deleted = self._deleted or entity == _OPERATING_MODEL

    def caught_up(self) -> str | None:
        """Bring the last operating model into force: the control topic was read to its end.

        Returns the unmet condition for accepting items; None when all are met.
        """
        self.ownership = self._read
        if self._model is not None:
            CONTROL_IN_FORCE.labels(_OPERATING_MODEL).set(self._model.number)
        publish = "no operating model is published: publish one with `piepowder control publish`"
        return publish if self.ownership is None else None

    def prepare(self, text: bytes, client: Principal, received_at: str, requested_at: str = "") -> PreparedItem:
        """Validate an item and create its records, without sending them. Raises InputRejected with every fault."""
        ownership = self.ownership
        if ownership is None:
            raise Transient("No operating model is in force yet.")
        try:
            post = posts.read(text)
        except MalformedItem as malformed:
            raise InputRejected(INVALID_ITEM, self._all_faults(ownership, malformed, text)) from malformed
        faults = posts.check(post, text, self._codes)
        markets_by_region = ownership.markets_by_region(post.markets)
        regions = tuple(markets_by_region)
        if faults or not regions:
            raise InputRejected(INVALID_ITEM, [*faults, *ownership.faults(post.markets), *posts.duplicates(text)])
        require_platform(client, post.platform, "/platform")
        require_regions(ownership, client, post.markets, regions)
        item_id, content_hash, content = posts.identity(post, posts.content(post))
        if duplicates := posts.duplicates(text):
            raise InputRejected(INVALID_ITEM, duplicates)
        subject = envelope.subject_of(post.platform, post.kind, post.id)
        submitted = posts.EncodedItemSubmitted(
            item_id=item_id,
            platform=post.platform,
            kind=post.kind,
            subject_id=post.id,
            version=post.version,
            content_hash=content_hash,
            client=client.name,
            reference=post.reference,
            received_at=received_at,
            requested_at=requested_at,
            regions=list(regions),
            operating_model=ownership.id,
            markets_by_region=markets_by_region,
            item=msgspec.Raw(content),
        )
        event_ids, records = [], []
        for region in regions:
            event_id = ids.event_id(item_id, ITEM_SUBMITTED, region)
            attributes = Attributes(event_id, ITEM_SUBMITTED, SOURCE, received_at, subject, region, event_id)
            event_ids.append(event_id)
            records.append(to_record(self._topics[region], envelope.encode(attributes, submitted)))
        return PreparedItem(
            item_id=item_id,
            subject=subject,
            version=post.version,
            content_hash=content_hash,
            regions=regions,
            event_ids=event_ids,
            records=records,
        )

    async def submit(self, accepted: Sequence[Publishable], *, patient: bool = False) -> None:
        """Publish all records, and wait for their acknowledgement; raises like `RegionPublisher.submit`."""
        await self._publisher.submit(accepted, patient=patient)

    def _all_faults(self, ownership: MarketOwnership, malformed: MalformedItem, text: bytes) -> list[Fault]:
        if malformed.rest is None:
            return malformed.faults
        others = [*posts.check(malformed.rest, text, self._codes), *ownership.faults(malformed.rest.markets)]
        return malformed.faults + [fault for fault in others if fault.pointer.split("/")[1] not in malformed.fields]


def require_regions(
    ownership: MarketOwnership, client: Principal, markets: Sequence[str], regions: Sequence[str]
) -> None:
    """Require that the client may act in every region that owns one of the markets; raises InputRejected."""
    faults = []
    for region in regions:
        if not client.may_act_in(region):
            index = ownership.first_market_of(region, markets)
            detail = f"market {markets[index]!r} belongs to region {region!r}; {client.described_regions()}"
            faults.append(Fault(f"/markets/{index}", detail))
    if faults:
        raise InputRejected(REGION_NOT_ALLOWED, faults)
