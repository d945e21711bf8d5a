"""What intake does: take posts in, and follow what becomes of them.

Taking in keeps no row: an item is accepted when every region's topic has acknowledged it, and a repeat of the same post
makes the same ids, so a client that is unsure sends the same again. Following is a projection of the regions' topics;
it reads dead letters too, because an item that was set aside must not look as if it were still on its way.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from services.intake import metrics
from services.intake.domain import posts, status
from services.intake.domain.faults import Fault
from services.intake.domain.ownership import Ownership
from services.intake.domain.posts import Codes, IllFormed, Refused
from services.intake.domain.status import Dead, Facts
from services.intake.notices.domain import lives
from services.intake.notices.domain.lives import APPEAL, ITEM, NOTICE, Told
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes, Event
from shared.contracts.events import (
    APPEAL_SUBMITTED,
    CASE_OPENED,
    ITEM_SUBMITTED,
    NOTICE_SUBMITTED,
    AppealSubmitted,
    NoticeSubmitted,
    OperatingModelPublished,
)
from shared.kafka.consumer import RawRecord, Received
from shared.kafka.producer import Record
from shared.kafka.producer import record as to_record
from shared.runtime.errors import PiepowderError, Poison, Transient
from shared.runtime.metrics import CONTROL_IN_FORCE

SOURCE: Final = "piepowder/intake"
_OVERHEAD: Final = 1_024  # bytes that a waiting record takes besides its value: headers, key, bookkeeping
_is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


class Overloaded(PiepowderError):  # noqa: N818 - the field's word
    """There is no room for more; nothing of the call was sent, and the same call is right a moment later."""

    def __init__(self) -> None:
        super().__init__("More is waiting for Kafka than this intake holds. Send the same again a moment later.")


class NotAcknowledged(Transient):
    """Some regions did not acknowledge, `by_region` says why each; what is for others alone is in Kafka.

    What was for them may be there or not, in the others too. The same again is right: it makes the same ids.
    """

    def __init__(self, by_region: Mapping[str, PiepowderError]) -> None:
        self.by_region = dict(by_region)
        together: dict[str, list[str]] = {}
        for region in sorted(by_region):
            together.setdefault(str(by_region[region]), []).append(region)
        reasons = (f"Region {', '.join(names)} did not acknowledge. {why}" for why, names in together.items())
        super().__init__(" ".join(reasons))

    def of(self, region: str) -> PiepowderError:
        """Why one region did not acknowledge."""
        why = self.by_region[region]
        return why if isinstance(why, Overloaded) else NotAcknowledged({region: why})


class Lane(Protocol):
    """The way to one Kafka cluster; see `services.intake.group_commit`. Sizes are in bytes."""

    @property
    def failing(self) -> bool: ...

    def has_room(self, records: int, size: int) -> bool: ...

    async def room(self, records: int, size: int) -> None: ...

    def put(self, records: Sequence[Record], size: int) -> asyncio.Future[None]: ...


class Poster(Protocol):
    """Who posts."""

    @property
    def name(self) -> str: ...

    @property
    def regions(self) -> frozenset[str]: ...

    @property
    def platforms(self) -> frozenset[str]: ...

    @property
    def scopes(self) -> frozenset[str]: ...

    def may_act_in(self, region: str) -> bool: ...

    def may_act_for(self, platform: str) -> bool: ...


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A post that fits, with the record for each of its regions; accepted once Kafka has them all."""

    item_id: str
    subject: str
    version: int | None
    content_hash: str
    regions: tuple[str, ...]
    event_ids: list[str]
    records: list[Record]


class Prepared(Protocol):
    """What is ready to be sent: a record for each region."""

    @property
    def regions(self) -> tuple[str, ...]: ...

    @property
    def records(self) -> list[Record]: ...


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
            CONTROL_IN_FORCE.labels("operating-model").set(event.data.number)

    def lacking(self) -> str | None:
        """What must still be in force before anything can be taken in."""
        publish = "no operating model is published: publish one with `piepowder control publish`"
        return publish if self.ownership is None else None

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
            raise posts.invalid([*faults, *ownership.faults(post.markets), *posts.doubled(text)])
        if not client.may_act_for(post.platform):
            raise forbidden_platform(client, post.platform)
        for region in regions:
            if not client.may_act_in(region):
                raise forbidden(ownership, client, post.markets, regions)
        item_id, content_hash, content = posts.identity(post, posts.content(post))
        if posts.is_doubled(text, post, content):
            raise posts.invalid(list(posts.doubled(text)))
        subject = envelope.subject_of(post.platform, post.kind, post.id)
        submitted = posts.Submitted(
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
        return Accepted(item_id, subject, post.version, content_hash, regions, event_ids, records)

    async def submit(self, accepted: Sequence[Prepared], *, patient: bool = False) -> None:
        """Have the records of all acknowledged, those of a subject in their order.

        Raises Overloaded when there is no room, and then nothing was sent; `patient` waits half a minute for it.
        Raises NotAcknowledged when some regions may not have theirs, Poison when Kafka does not take one. After each
        the same again is right. A cluster that failed last is asked first, alone: while it is away, what is for it and
        for others is sent to none.
        """
        shares = self._shares(accepted)
        if not patient and not all(share.lane.has_room(len(share.records), share.size) for share in shares):
            raise Overloaded
        failed: dict[str, PiepowderError] = {}
        if len(shares) > 1 and (doubtful := [share for share in shares if share.lane.failing]):
            failed = await _send(doubtful, patient=patient)
            asked = {share.lane for share in doubtful}
            others = [one for one in accepted if failed.keys().isdisjoint(one.regions)]
            shares = [share for share in self._shares(others) if share.lane not in asked]
        failed |= await _send(shares, patient=patient)
        if failed:
            raise NotAcknowledged(failed)

    def _shares(self, accepted: Sequence[Prepared]) -> list[_Share]:
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


async def _send(shares: Sequence[_Share], *, patient: bool) -> dict[str, PiepowderError]:
    """Put each share on its lane; why, by region, one was not acknowledged. Raises Poison when one is not taken."""
    failed: dict[str, PiepowderError] = {}
    acknowledged: list[tuple[_Share, asyncio.Future[None]]] = []
    for share in shares:
        try:
            if patient:
                await share.lane.room(len(share.records), share.size)
            acknowledged.append((share, share.lane.put(share.records, share.size)))
        except Overloaded as error:
            failed |= dict.fromkeys(share.regions, error)
    if len(acknowledged) == 1:  # as nearly always: a gathering of one costs more than the wait
        results: list[BaseException | None] = [await _outcome(acknowledged[0][1])]
    else:
        results = await asyncio.gather(*(done for _, done in acknowledged), return_exceptions=True)
    for (share, _), result in zip(acknowledged, results, strict=True):
        if isinstance(result, Transient):
            failed |= dict.fromkeys(share.regions, result)
        elif isinstance(result, BaseException):
            raise result
    return failed


async def _outcome(done: asyncio.Future[None]) -> Transient | None:
    try:
        await done
    except Transient as error:
        return error
    return None


def forbidden(ownership: Ownership, client: Poster, markets: Sequence[str], regions: Sequence[str]) -> Refused:
    """403: some of the regions that own the markets are not the client's."""
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


def forbidden_platform(client: Poster, platform: str, pointer: str = "/platform") -> Refused:
    """403: the platform is not the client's."""
    allowed = ", ".join(sorted(client.platforms)) or "no platform"
    detail = f"client {client.name!r} may act for {allowed}, not for {platform!r:.63}"
    return Refused(403, "platform-not-allowed", "The key may not act for this platform", [Fault(pointer, detail)])


class Learned(NamedTuple):
    """What a record says about an item."""

    item_id: str
    facts: Facts


class Statuses(Protocol):
    """Where what is known of items is kept; see `services.intake.store`."""

    async def learn(self, region: str, learned: Mapping[str, Facts]) -> None: ...


class Complaints(Protocol):
    """Where what is known of notices and appeals is kept, and what the decisions of `items` are about; see
    `services.intake.notices.store`."""

    async def learn(self, region: str, told: Mapping[str, lives.Facts], items: Mapping[str, Facts]) -> None: ...


class _Named(msgspec.Struct):
    item_id: str = ""
    notice_id: str = ""
    appeal_id: str = ""
    case_type: str = ITEM


def projection_group(region: str) -> str:
    """The consumer group that follows a region."""
    return f"piepowder-intake-{region}"


_SUBMITTED: Final = {
    ITEM_SUBMITTED.encode(): ITEM,
    NOTICE_SUBMITTED.encode(): NOTICE,
    APPEAL_SUBMITTED.encode(): APPEAL,
}
_Message: TypeAlias = Learned | Told | None


class Projection:
    """Follows what becomes of a region's items, notices and appeals."""

    def __init__(self, region: str, statuses: Statuses, complaints: Complaints) -> None:
        self.region = region
        self.group = projection_group(region)
        self.deadletters = topics.deadletters(region)
        self._statuses = statuses
        self._complaints = complaints
        self._decode_named = msgspec.json.Decoder(_Named).decode
        self._router = f"piepowder-router-{region}".encode()
        self._decision = f"piepowder-decision-{region}".encode()
        self._unattributed = metrics.INTAKE_DEADLETTERS_IGNORED.labels(region)

    @property
    def topics(self) -> list[str]:
        """What it reads: all that tells of an item's way, and where it may end."""
        region = self.region
        return [topics.submissions(region), topics.cases(region), topics.decisions(region), self.deadletters]

    def decode(self, record: RawRecord) -> _Message:
        """What a record says, None when nothing; raises Poison for what is no event, but never for a dead letter."""
        if record.topic == self.deadletters:
            return self._from_dead_letter(record)
        event = envelope.decode(record.headers, record.key, record.value, region=self.region)
        data, attributes = event.data, event.attributes
        if isinstance(data, NoticeSubmitted | AppealSubmitted) or getattr(data, "case_type", ITEM) != ITEM:
            return _told(data, attributes, record.offset)
        facts = status.learned(data, subject=attributes.subject, position=record.offset, time=attributes.time)
        if facts is None:
            return None
        if not _is_uuid(data.item_id):
            raise Poison(f"item_id {data.item_id!r:.60} is not a UUID")
        return Learned(data.item_id, facts)

    async def handle(self, batch: Sequence[Received[_Message]]) -> None:
        """Add a batch to what is known: of items, then of the rest; met again as a whole when the second step fails."""
        together: dict[str, Facts] = {}
        told: dict[str, lives.Facts] = {}
        for received in batch:
            message = received.message
            if isinstance(message, Learned):
                item_id, facts = message
                known = together.get(item_id)
                together[item_id] = facts if known is None else status.merge(known, facts)
            elif message is not None:
                before = told.get(message.id)
                told[message.id] = message.facts if before is None else lives.merge(before, message.facts)
        if together:
            await self._statuses.learn(self.region, together)
        await self._complaints.learn(self.region, told, together)

    def _from_dead_letter(self, record: RawRecord) -> _Message:
        headers = dict(record.headers)
        group = headers.get("dl_group")
        if group not in (self._router, self._decision) or "dl_returned" in headers:
            return None  # set aside by a consumer that an item's way does not lead through, or put back since
        try:
            named = self._decode_named(record.value or b"")
            position = int(headers["dl_met" if "dl_met" in headers else "dl_offset"])
            reason = headers["dl_reason"].decode(errors="replace")
            time = headers["dl_time"].decode()
            since = int(headers.get("dl_parked") or b"-1")
        except (KeyError, AttributeError, TypeError, ValueError, RecursionError):
            named, position, reason, time, since = _Named(), -1, "", "", -1
        about = named.item_id or named.notice_id or named.appeal_id
        if not _is_uuid(about) or position < 0:
            self._unattributed.inc()
            return None
        event_type = headers.get("ce_type") or b""
        opened = group == self._decision and event_type == CASE_OPENED.encode()
        type_ = named.case_type if opened else _SUBMITTED.get(event_type) if group == self._router else None
        if type_ is None:
            return None  # such as its withdrawal, which waits behind it
        letter = Dead(position=position, reason=reason, at=time, since=since)
        if type_ != ITEM:
            return lives.set_aside(letter, type_, about, as_case=opened)
        submitted = ids.event_id(about, ITEM_SUBMITTED, self.region)
        if headers.get("ce_id") != (ids.event_id(submitted, CASE_OPENED) if opened else submitted).encode():
            return None  # it names the item, and is none of its events
        return Learned(about, Facts(dead_case=letter) if opened else Facts(dead_submission=letter))


def _told(data: Any, attributes: Attributes, position: int) -> Told | None:
    told = lives.told(data, subject=attributes.subject, position=position, time=attributes.time)
    if told is None:
        return None
    contested, decision = told.facts.contested, told.facts.way.decision
    named = [told.id, *(about.decision_id for about in (contested, decision) if about is not None)]
    if not all(map(_is_uuid, named)):
        raise Poison(f"of {', '.join(named)!r:.200}, not all are UUIDs")
    return told
