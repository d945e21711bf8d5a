"""Publishing records to the Kafka clusters of their regions: one share of the records for each cluster."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from shared.kafka.producer import Record
from shared.runtime.errors import PiepowderError, Transient

SOURCE: Final = "piepowder/intake"
_OVERHEAD: Final = 1_024  # bytes of a queued record besides its value: headers, key, objects


class Overloaded(PiepowderError):  # noqa: N818 - a state of the service
    """A queue is full. No record was sent; the client can send the same call again."""

    def __init__(self) -> None:
        super().__init__("The queue for Kafka is full. Send the same call again in a moment.")


class NotAcknowledged(Transient):
    """A failure of some regions to acknowledge; `by_region` has the error of each.

    Records for these regions, and records of the same items for other regions, may or may not be in Kafka. A repetition
    is safe, because it has the same event ids.
    """

    def __init__(self, by_region: Mapping[str, PiepowderError]) -> None:
        self.by_region = dict(by_region)
        together: dict[str, list[str]] = {}
        for region in sorted(by_region):
            together.setdefault(str(by_region[region]), []).append(region)
        reasons = (f"Region {', '.join(names)} did not acknowledge. {why}" for why, names in together.items())
        super().__init__(" ".join(reasons))

    def of(self, region: str) -> PiepowderError:
        """The error of one region."""
        why = self.by_region[region]
        return why if isinstance(why, Overloaded) else NotAcknowledged({region: why})


class ClusterPublisher(Protocol):
    """Publishes to one Kafka cluster: `services.intake.publishing.group_commit`. Sizes are in bytes."""

    @property
    def failing(self) -> bool: ...
    def has_room(self, records: int, size: int) -> bool: ...
    async def room(self, records: int, size: int) -> None: ...
    def put(self, records: Sequence[Record], size: int) -> asyncio.Future[None]: ...


class Publishable(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A valid input with an event, as a record, for each of its regions. It is accepted when all are acknowledged."""

    subject: str
    regions: tuple[str, ...]
    event_ids: list[str]
    records: list[Record]


class _Share(NamedTuple):
    publisher: ClusterPublisher
    regions: set[str]
    records: list[Record]
    size: int


class RegionPublisher:
    """Publishes records to their regions. `publishers` maps a region to the publisher of its cluster; regions can share
    a cluster."""

    def __init__(self, publishers: Mapping[str, ClusterPublisher]) -> None:
        self._publishers = publishers

    async def submit(self, accepted: Sequence[Publishable], *, patient: bool = False) -> None:
        """Publish all records, and wait for their acknowledgement. The order of a subject's records is kept.

        Raises Overloaded, with nothing sent, when a queue has no room; `patient` waits for room for 30 seconds. Raises
        NotAcknowledged when records of some regions may be missing in Kafka, Poison when Kafka rejects a record. A
        repetition is safe after each of them. A cluster whose last flush failed is tried first, alone: while it does
        not respond, an item for this cluster and another cluster is sent to neither.
        """
        shares = self._shares(accepted)
        if not patient and not all(share.publisher.has_room(len(share.records), share.size) for share in shares):
            raise Overloaded
        failed: dict[str, PiepowderError] = {}
        if len(shares) > 1 and (doubtful := [share for share in shares if share.publisher.failing]):
            failed = await _send(doubtful, patient=patient)
            tried = {share.publisher for share in doubtful}
            others = [one for one in accepted if failed.keys().isdisjoint(one.regions)]
            shares = [share for share in self._shares(others) if share.publisher not in tried]
        failed |= await _send(shares, patient=patient)
        if failed:
            raise NotAcknowledged(failed)

    def _shares(self, accepted: Sequence[Publishable]) -> list[_Share]:
        """The records of each cluster, in the given order."""
        regions = {region for one in accepted for region in one.regions}
        publishers: dict[ClusterPublisher, set[str]] = {}
        for region in regions:
            publishers.setdefault(self._publishers[region], set()).add(region)
        shares = []
        for publisher, owned in publishers.items():
            if len(publishers) == 1:
                records = [record for one in accepted for record in one.records]
            else:
                records = [
                    record
                    for one in accepted
                    for region, record in zip(one.regions, one.records, strict=True)
                    if region in owned
                ]
            size = sum([len(record.value or b"") for record in records]) + _OVERHEAD * len(records)
            shares.append(_Share(publisher, owned, records, size))
        return shares


async def _send(shares: Sequence[_Share], *, patient: bool) -> dict[str, PiepowderError]:
    """Publish the shares; returns the errors by region. Raises Poison when Kafka rejects a record."""
    failed: dict[str, PiepowderError] = {}
    acknowledged: list[tuple[_Share, asyncio.Future[None]]] = []
    for share in shares:
        try:
            if patient:
                await share.publisher.room(len(share.records), share.size)
            acknowledged.append((share, share.publisher.put(share.records, share.size)))
        except Overloaded as error:
            failed |= dict.fromkeys(share.regions, error)
    if len(acknowledged) == 1:  # the usual case; `gather` would cost more
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
