"""What intake does: take posts in, and follow what becomes of them.

Taking in keeps no row: an item is accepted when every region's topic has acknowledged it, and a repeat of the same post
makes the same ids, so a client that is unsure sends the same again. Following is a projection of the regions' topics;
it reads dead letters too, because an item that was set aside must not look as if it were still on its way.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from services.intake.domain import posts, status
from services.intake.domain.faults import Fault
from services.intake.domain.ownership import Ownership
from services.intake.domain.posts import Codes, IllFormed, Refused
from services.intake.domain.status import Dead, Facts
from shared import envelope, ids, metrics
from shared.envelope import Attributes, Event
from shared.errors import PiepowderError, Poison, Transient
from shared.events import CASE_OPENED, ITEM_SUBMITTED, ItemSubmitted, OperatingModelPublished
from shared.kafka import topics
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.producer import Record
from shared.kafka.producer import record as to_record

SOURCE: Final = "piepowder/intake"
_OVERHEAD: Final = 1_024  # bytes that a waiting record takes besides its value: headers, key, bookkeeping
_is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


class Overloaded(PiepowderError):  # noqa: N818 - the field's word
    """There is no room for more; nothing of the call was sent, and the same call is right a moment later."""

    def __init__(self) -> None:
        super().__init__("More is waiting for Kafka than this intake holds. Send the same again a moment later.")


class Lane(Protocol):
    """The way to one Kafka cluster; see `services.intake.group_commit`. Sizes are in bytes."""

    def has_room(self, records: int, size: int) -> bool: ...

    async def room(self, records: int, size: int) -> None: ...

    def put(self, records: Sequence[Record], size: int) -> asyncio.Future[None]: ...


class Poster(Protocol):
    """Who posts."""

    @property
    def name(self) -> str: ...

    @property
    def regions(self) -> frozenset[str]: ...

    def may_act_in(self, region: str) -> bool: ...


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A post that fits, with the record for each of its regions; accepted once Kafka has them all."""

    item_id: str
    subject: str
    version: int | None
    content_hash: str
    regions: tuple[str, ...]
    event_ids: list[str]
    records: list[Record]


class _Share(NamedTuple):
    lane: Lane
    regions: set[str]
    records: list[Record]
    size: int


class Front:
    """Takes posts in. `lanes` gives each region's way to its Kafka cluster; regions may share one."""

    def __init__(self, *, codes: Codes, lanes: Mapping[str, Lane]) -> None:
        self._codes = codes
        self._lanes = lanes
        self._topics = {region: topics.submissions(region) for region in lanes}
        self.ownership: Ownership | None = None

    def apply(self, event: Event[Any]) -> None:
        """Put a published operating model into force; raises Poison when it contradicts itself."""
        if isinstance(event.data, OperatingModelPublished):
            self.ownership = Ownership(event.data, list(self._lanes))
            metrics.CONTROL_IN_FORCE.labels("operating-model").set(event.data.number)

    def lacking(self) -> str | None:
        """What must still be in force before anything can be taken in."""
        return "no operating model is published" if self.ownership is None else None

    def prepare(self, text: bytes, client: Poster, received_at: str) -> Accepted:
        """The records of a post; raises Refused with every fault found. Sends nothing."""
        ownership = self.ownership
        if ownership is None:
            raise Transient("No operating model is in force yet.")
        try:
            post = posts.read(text)
        except IllFormed as ill:
            raise posts.invalid(self._all_faults(ownership, ill, text)) from ill
        faults = posts.check(post, text, self._codes)
        regions = ownership.regions(post.markets)
        if faults or not regions:
            raise posts.invalid([*faults, *ownership.faults(post.markets)])
        for region in regions:
            if not client.may_act_in(region):
                raise _forbidden(ownership, client, post.markets, regions)
        item = posts.content(post)
        item_id, content_hash = posts.identity(post, item)
        subject = envelope.subject_of(post.platform, post.kind, post.id)
        submitted = ItemSubmitted(
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
            item=item,
        )
        event_ids, records = [], []
        for region in regions:
            event_id = ids.event_id(item_id, ITEM_SUBMITTED, region)
            attributes = Attributes(event_id, ITEM_SUBMITTED, SOURCE, received_at, subject, region, event_id)
            event_ids.append(event_id)
            records.append(to_record(self._topics[region], envelope.encode(attributes, submitted)))
        return Accepted(item_id, subject, post.version, content_hash, regions, event_ids, records)

    async def submit(self, accepted: Sequence[Accepted], *, patient: bool = False) -> None:
        """Have the records of all acknowledged, those of a subject in their order.

        Raises Overloaded when there is no room (`patient`: not for half a minute), and then nothing was sent; Transient
        when some may not have arrived, Poison when Kafka does not take one. After both the same again is right.
        """
        shares = self._shares(accepted)
        if patient:
            for share in shares:
                await share.lane.room(len(share.records), share.size)
        if not all(share.lane.has_room(len(share.records), share.size) for share in shares):
            raise Overloaded
        acknowledged = [share.lane.put(share.records, share.size) for share in shares]
        results = await asyncio.gather(*acknowledged, return_exceptions=True)
        for share, result in zip(shares, results, strict=True):
            if isinstance(result, Transient):
                raise Transient(f"Region {', '.join(sorted(share.regions))} did not acknowledge. {result}") from result
            if isinstance(result, BaseException):
                raise result

    def _shares(self, accepted: Sequence[Accepted]) -> list[_Share]:
        """What goes to each cluster, in the posts' order."""
        regions = {region for one in accepted for region in one.regions}
        lanes: dict[Lane, set[str]] = {}
        for region in regions:
            lanes.setdefault(self._lanes[region], set()).add(region)
        shares = []
        for lane, owned in lanes.items():
            if len(lanes) == 1:
                records = [record for one in accepted for record in one.records]
            else:
                records = [
                    record
                    for one in accepted
                    for region, record in zip(one.regions, one.records, strict=True)
                    if region in owned
                ]
            size = sum([len(record.value or b"") for record in records]) + _OVERHEAD * len(records)
            shares.append(_Share(lane, owned, records, size))
        return shares

    def _all_faults(self, ownership: Ownership, ill: IllFormed, text: bytes) -> list[Fault]:
        if ill.rest is None:
            return ill.faults
        others = [*posts.check(ill.rest, text, self._codes), *ownership.faults(ill.rest.markets)]
        return ill.faults + [fault for fault in others if fault.pointer.split("/")[1] not in ill.fields]


def _forbidden(ownership: Ownership, client: Poster, markets: Sequence[str], regions: Sequence[str]) -> Refused:
    allowed = ", ".join(sorted(client.regions)) or "no region"
    faults = []
    for region in regions:
        if not client.may_act_in(region):
            index = ownership.first_market_of(region, markets)
            detail = (
                f"market {markets[index]!r} belongs to region {region!r}; client {client.name!r} may act in {allowed}"
            )
            faults.append(Fault(f"/markets/{index}", detail))
    return Refused(403, "region-not-allowed", "The key may not act in this region", faults)


class Learned(NamedTuple):
    """What a record says about an item."""

    item_id: str
    facts: Facts


class Statuses(Protocol):
    """Where what is known of items is kept; see `services.intake.store`."""

    async def learn(self, region: str, learned: Mapping[str, Facts]) -> None: ...


class _Named(msgspec.Struct):
    item_id: str


class Projection:
    """Follows what becomes of a region's items."""

    def __init__(self, region: str, statuses: Statuses) -> None:
        self.region = region
        self.group = f"piepowder-intake-{region}"
        self.deadletters = topics.deadletters(region)
        self._statuses = statuses
        self._decode_named = msgspec.json.Decoder(_Named).decode
        self._ends_the_way = {
            f"piepowder-router-{region}".encode(): ITEM_SUBMITTED.encode(),
            f"piepowder-decision-{region}".encode(): CASE_OPENED.encode(),
        }
        self._unattributed = metrics.INTAKE_DEADLETTERS_IGNORED.labels(region)

    @property
    def topics(self) -> list[str]:
        """What it reads: all that tells of an item's way, and where it may end."""
        region = self.region
        return [topics.submissions(region), topics.cases(region), topics.decisions(region), self.deadletters]

    def decode(self, record: RawRecord) -> Learned | None:
        """What a record says, None when nothing; raises Poison for what is no event, but never for a dead letter."""
        if record.topic == self.deadletters:
            return self._from_dead_letter(record)
        event = envelope.decode(record.headers, record.key, record.value, region=self.region)
        attributes = event.attributes
        facts = status.learned(event.data, subject=attributes.subject, position=record.offset, time=attributes.time)
        if facts is None:
            return None
        if not _is_uuid(event.data.item_id):
            raise Poison(f"item_id {event.data.item_id!r:.60} is not a UUID")
        return Learned(event.data.item_id, facts)

    async def handle(self, batch: Sequence[Received[Learned | None]]) -> None:
        """Add a batch to what is known; all or nothing."""
        together: dict[str, Facts] = {}
        for received in batch:
            if received.message is not None:
                item_id, facts = received.message
                known = together.get(item_id)
                together[item_id] = facts if known is None else status.merge(known, facts)
        if together:
            await self._statuses.learn(self.region, together)

    def _from_dead_letter(self, record: RawRecord) -> Learned | None:
        headers = dict(record.headers)
        ended = self._ends_the_way.get(headers.get("dl_group") or b"")
        if ended is None:
            return None  # set aside by a consumer that an item's way does not lead through
        try:
            item_id = self._decode_named(record.value or b"").item_id
            position = int(headers["dl_offset"])
            reason = headers["dl_reason"].decode(errors="replace")
            time = headers["dl_time"].decode()
        except (KeyError, AttributeError, TypeError, ValueError, RecursionError):
            item_id, position, reason, time = "", -1, "", ""
        if headers.get("ce_type") != ended or not _is_uuid(item_id) or position < 0:
            self._unattributed.inc()
            return None
        letter = Dead(position=position, reason=reason, at=time)
        if ended == ITEM_SUBMITTED.encode():
            return Learned(item_id, Facts(dead_submission=letter))
        return Learned(item_id, Facts(dead_case=letter))
