"""Submission of items.

A submission writes no row to a database. An item is accepted when Kafka has acknowledged its record in every region. A
repetition of the same post produces the same ids, so a client that is unsure of the outcome sends the same post again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.intake.items.domain import posts
from services.intake.items.domain.ownership import MarketOwnership
from services.intake.items.domain.posts import MalformedItem
from services.intake.publishing.regions import SOURCE, ClusterPublisher, RegionPublisher
from shared.auth.principal import Principal
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes, Event
from shared.contracts.events import ITEM_SUBMITTED, OperatingModelPublished
from shared.kafka.producer import Record
from shared.kafka.producer import record as to_record
from shared.runtime.errors import Transient
from shared.runtime.metrics import CONTROL_IN_FORCE
from shared.validation.codes import Codes
from shared.validation.faults import Fault, InputRejected


class PreparedItem(msgspec.Struct, frozen=True, gc=False):
    """A valid item and its record for each region; it is accepted when Kafka has acknowledged all records."""

    item_id: str
    subject: str
    version: int | None
    content_hash: str
    regions: tuple[str, ...]
    event_ids: list[str]
    records: list[Record]


class ItemIntake:
    """Validates and submits items. `publishers` maps each region to the publisher of its Kafka cluster."""

    def __init__(self, *, codes: Codes, publishers: Mapping[str, ClusterPublisher]) -> None:
        self._codes = codes
        self._publishers = publishers
        self.submit = RegionPublisher(publishers).submit
        self._topics = {region: topics.submissions(region) for region in publishers}
        self.ownership: MarketOwnership | None = None

    def apply(self, event: Event[Any]) -> None:
        """Apply a published operating model; raises Poison when it is contradictory."""
        if isinstance(event.data, OperatingModelPublished):
            self.ownership = MarketOwnership(event.data, list(self._publishers))
            CONTROL_IN_FORCE.labels("operating-model").set(event.data.number)

    def missing(self) -> str | None:
        """The condition for accepting items that is not met yet, None when all are met."""
        publish = "no operating model is published: publish one with `piepowder control publish`"
        return publish if self.ownership is None else None

    def prepare(self, text: bytes, client: Principal, received_at: str) -> PreparedItem:
        """Validate an item and create its records, without sending them. Raises InputRejected with every fault."""
        ownership = self.ownership
        if ownership is None:
            raise Transient("No operating model is in force yet.")
        try:
            post = posts.read(text)
        except MalformedItem as malformed:
            raise posts.invalid(self._all_faults(ownership, malformed, text)) from malformed
        faults = posts.check(post, text, self._codes)
        regions = ownership.regions(post.markets)
        if faults or not regions:
            raise posts.invalid([*faults, *ownership.faults(post.markets), *posts.duplicates(text)])
        if not client.may_act_for(post.platform):
            raise forbidden_platform(client, post.platform)
        for region in regions:
            if not client.may_act_in(region):
                raise forbidden(ownership, client, post.markets, regions)
        item_id, content_hash, content = posts.identity(post, posts.content(post))
        if duplicates := posts.duplicates(text):
            raise posts.invalid(duplicates)
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
            regions=list(regions),
            item=msgspec.Raw(content),
        )
        event_ids, records = [], []
        for region in regions:
            event_id = ids.event_id(item_id, ITEM_SUBMITTED, region)
            attributes = Attributes(event_id, ITEM_SUBMITTED, SOURCE, received_at, subject, region, event_id)
            event_ids.append(event_id)
            records.append(to_record(self._topics[region], envelope.encode(attributes, submitted)))
        return PreparedItem(item_id, subject, post.version, content_hash, regions, event_ids, records)

    def _all_faults(self, ownership: MarketOwnership, malformed: MalformedItem, text: bytes) -> list[Fault]:
        if malformed.rest is None:
            return malformed.faults
        others = [*posts.check(malformed.rest, text, self._codes), *ownership.faults(malformed.rest.markets)]
        return malformed.faults + [fault for fault in others if fault.pointer.split("/")[1] not in malformed.fields]


def forbidden(
    ownership: MarketOwnership, client: Principal, markets: Sequence[str], regions: Sequence[str]
) -> InputRejected:
    """403: the client may not act in every region that owns one of the markets."""
    allowed = ", ".join(sorted(client.regions)) or "no region"
    faults = []
    for region in regions:
        if not client.may_act_in(region):
            index = ownership.first_market_of(region, markets)
            detail = (
                f"market {markets[index]!r} belongs to region {region!r}; client {client.name!r} may act in {allowed}"
            )
            faults.append(Fault(f"/markets/{index}", detail))
    return InputRejected(403, "region-not-allowed", "The key may not act in this region", faults)


def forbidden_platform(client: Principal, platform: str, pointer: str = "/platform") -> InputRejected:
    """403: the client may not act for the platform."""
    allowed = ", ".join(sorted(client.platforms)) or "no platform"
    detail = f"client {client.name!r} may act for {allowed}, not for {platform!r:.63}"
    return InputRejected(403, "platform-not-allowed", "The key may not act for this platform", [Fault(pointer, detail)])
