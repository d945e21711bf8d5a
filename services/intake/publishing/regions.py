"""Publishing records to the Kafka clusters of their regions."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from shared.kafka.producer import Record
from shared.runtime.errors import PiepowderError, Transient

SOURCE: Final = "piepowder/intake"


_OVERHEAD: Final = 1_024  # bytes that a waiting record takes besides its value: headers, key, bookkeeping


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


class ClusterPublisher(Protocol):
    """The way to one Kafka cluster; see `services.intake.publishing.group_commit`. Sizes are in bytes."""

    @property
    def failing(self) -> bool: ...

    def has_room(self, records: int, size: int) -> bool: ...

    async def room(self, records: int, size: int) -> None: ...

    def put(self, records: Sequence[Record], size: int) -> asyncio.Future[None]: ...


class Publishable(Protocol):
    """What is ready to be sent: a record for each region."""

    @property
    def regions(self) -> tuple[str, ...]: ...

    @property
    def records(self) -> list[Record]: ...


class _Share(NamedTuple):
    publisher: ClusterPublisher
    regions: set[str]
    records: list[Record]
    size: int


class RegionPublisher:
    """Sends records to their regions. `lanes` gives each region's way to its Kafka cluster; regions may share one."""

    def __init__(self, publishers: Mapping[str, ClusterPublisher]) -> None:
        self._publishers = publishers

    async def submit(self, accepted: Sequence[Publishable], *, patient: bool = False) -> None:
        """Have the records of all acknowledged, those of a subject in their order.

        Raises Overloaded when there is no room, and then nothing was sent; `patient` waits half a minute for it.
        Raises NotAcknowledged when some regions may not have theirs, Poison when Kafka does not take one. After each
        the same again is right. A cluster that failed last is asked first, alone: while it is away, what is for it and
        for others is sent to none.
        """
        shares = self._shares(accepted)
        if not patient and not all(share.publisher.has_room(len(share.records), share.size) for share in shares):
            raise Overloaded
        failed: dict[str, PiepowderError] = {}
        if len(shares) > 1 and (doubtful := [share for share in shares if share.publisher.failing]):
            failed = await _send(doubtful, patient=patient)
            asked = {share.publisher for share in doubtful}
            others = [one for one in accepted if failed.keys().isdisjoint(one.regions)]
            shares = [share for share in self._shares(others) if share.publisher not in asked]
        failed |= await _send(shares, patient=patient)
        if failed:
            raise NotAcknowledged(failed)

    def _shares(self, accepted: Sequence[Publishable]) -> list[_Share]:
        """What goes to each cluster, in the posts' order."""
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
    """Put each share on its lane; why, by region, one was not acknowledged. Raises Poison when one is not taken."""
    failed: dict[str, PiepowderError] = {}
    acknowledged: list[tuple[_Share, asyncio.Future[None]]] = []
    for share in shares:
        try:
            if patient:
                await share.publisher.room(len(share.records), share.size)
            acknowledged.append((share, share.publisher.put(share.records, share.size)))
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
