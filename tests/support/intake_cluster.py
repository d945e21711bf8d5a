"""A Kafka cluster in memory, as the publishers of intake see it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from shared.contracts.envelope import Event, decode
from shared.kafka.producer import Record
from shared.runtime.errors import Poison, Transient


class Cluster:
    """Stores acknowledged records; waits for `may_acknowledge`, and can fail or reject.

    It does not respond after `fails_after` sends. It rejects a send with a value that contains `rejects`. `failure` is
    raised for each send, or only for a send with the value `failing_value`.
    """

    def __init__(self, *, fails_after: int = 10**9, rejects: bytes | None = None) -> None:
        self.records: list[Record] = []
        self.sends: list[int] = []
        """The number of records of each acknowledged send."""
        self.flushes: list[list[bytes]] = []
        """The values of each send, also of a failed one."""
        self.may_acknowledge = asyncio.Event()
        self.may_acknowledge.set()
        self.failure: Exception | None = None
        self.failing_value: bytes | None = None
        self.rejects = rejects
        self._fails_after = fails_after

    async def send(self, records: Sequence[Record]) -> None:
        values = [record.value or b"" for record in records]
        self.flushes.append(values)
        await asyncio.sleep(0)
        await self.may_acknowledge.wait()
        if len(self.sends) >= self._fails_after:
            raise Transient("Kafka does not respond.")
        if self.rejects is not None and any(self.rejects in value for value in values):
            raise Poison("larger than Kafka accepts")
        if self.failure is not None and (self.failing_value is None or self.failing_value in values):
            raise self.failure
        self.sends.append(len(records))
        self.records += records

    @property
    def keys(self) -> list[bytes]:
        """The keys of the acknowledged records."""
        return [record.key or b"" for record in self.records]

    def events(self) -> list[Event[Any]]:
        """The events of the acknowledged records."""
        return [decode(r.headers, r.key, r.value, region=r.topic.rpartition(".")[2]) for r in self.records]
