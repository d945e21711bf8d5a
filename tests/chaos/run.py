"""One run: load and faults, then a quiet time, the checker, a replay of all records, and the checker again."""

import asyncio
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tests.chaos.checker import promises
from tests.chaos.checker.cloudevents import derived
from tests.chaos.checker.history import Call, History, Note, Planted
from tests.chaos.checker.reading import Topics, read_journal, read_tables, topic_names
from tests.chaos.checker.violation import Violation
from tests.chaos.clients import PermanentClients, Posters, Registry
from tests.chaos.defects import logged_defects
from tests.chaos.environment import REGIONS, Environment
from tests.chaos.faults import FaultInjector, Planned
from tests.chaos.gate import Gate
from tests.chaos.journal import Journal
from tests.chaos.load import LEASE_SECONDS, MARKETS, Client, Load, Reviewer
from tests.chaos.operations import Operations
from tests.chaos.report import Injected, Report
from tests.chaos.requests import Business

_REVIEWERS: Final = 4
_REQUESTS: Final = 1 / 160  # share of the rate of items
_CLIENTS: Final = 1 / 320
_RECOVERY: Final = 120.0
_SETTLE: Final = 120.0
_LEASES_END: Final = LEASE_SECONDS + 2.5

Say = Callable[[str], None]


class Run:
    """A run in its own environment, with its data in `folder`."""

    def __init__(self, folder: Path, *, seed: int, rate: float, say: Say) -> None:
        self._seed = seed
        self._rate = rate
        self._say = say
        self._journal = Journal(folder / "journal.ndjson")
        self._environment = Environment(folder, say=say)
        self._injected: list[Injected] = []
        self._read_journal: tuple[int, tuple[list[Call], list[Planted], list[Note]]] | None = None
        self._probes = 0

    async def run(self, schedule: Iterable[Planned], *, seconds: float, at_least: float) -> Report:
        """Cause faults until `seconds` have passed or the schedule ends, with a load for at least `at_least` seconds;
        stop all."""
        try:
            await self._environment.start()
            return await self._run(schedule, seconds, at_least)
        finally:
            await self._environment.stop()
            self._journal.close()

    async def _run(self, schedule: Iterable[Planned], seconds: float, at_least: float) -> Report:
        loop = asyncio.get_running_loop()
        key, intake = self._environment.system.key(), self._environment.port("intake")
        client = Client(key, self._journal)
        load = Load(client, intake, self._seed)
        gate = Gate()
        registry = Registry(client, intake, gate, self._seed)
        business = Business(client, intake, PermanentClients(registry, key), gate, self._seed)
        posters = Posters(client, intake, registry, self._seed)
        topics = Topics(self._environment.kafka.bootstrap, topic_names(REGIONS))
        operations = Operations(self._environment, self._journal, topics, client, gate)
        injector = FaultInjector(self._environment, self._journal, operations, self._seed)
        posting_ends, reviewing_ends = asyncio.Event(), asyncio.Event()
        longest = seconds + _RECOVERY * 4
        tasks = [
            asyncio.create_task(load.run(self._rate, longest, posting_ends)),
            asyncio.create_task(business.run(self._rate * _REQUESTS, longest, posting_ends)),
            asyncio.create_task(posters.run(self._rate * _CLIENTS, posting_ends)),
        ]
        for region in REGIONS:
            port = self._environment.port(f"decision-{region}")
            for number in range(_REVIEWERS):
                reviewer = Reviewer(f"r-{number}", client, port=port, region=region, tally=load.tally, seed=self._seed)
                tasks.append(asyncio.create_task(reviewer.run(reviewing_ends)))
        started = loop.time()
        try:
            for planned in schedule:
                if loop.time() - started + planned.pause > seconds:
                    break
                await asyncio.sleep(planned.pause)
                await self._inject(injector, client, planned, started)
            await asyncio.sleep(max(0.0, started + at_least - loop.time()))
            ran = loop.time() - started
            posting_ends.set()
            await asyncio.gather(*tasks[:3])
            reviewing_ends.set()
            await asyncio.gather(*tasks)
            settled, violations, history = await self._check(topics, leases_end=_LEASES_END)
            if not violations:
                violations = await self._replay(topics, injector, history)
            violations += await asyncio.to_thread(logged_defects, self._environment.logs)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await topics.close()
            client.close()
        return Report(
            self._seed,
            ran,
            self._rate,
            load.tally,
            {"requests": business.tally, "clients": registry.tally, "posts of these clients": posters.tally},
            load.longest_stall(),
            self._injected,
            injector.skipped,
            settled,
            violations,
            history,
        )

    async def _inject(self, injector: FaultInjector, client: Client, planned: Planned, started: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        self._say(f"{at - started:6.1f} s  {planned}")
        await injector.do(planned)
        whole = loop.time()
        recovery = await self._recovered(client, whole)
        self._injected.append(Injected(planned, at - started, whole - at, recovery))
        self._say(f"          recovered after {'NOT' if recovery is None else f'{recovery:.1f} s'}")

    async def _recovered(self, client: Client, whole: float) -> float | None:
        """Seconds until a new item is posted, decided, visible and audited in both regions; None if that takes too
        long."""
        loop = asyncio.get_running_loop()
        item = ""
        while loop.time() - whole < _RECOVERY:
            if not item:
                item = await self._post_probe(client)
            elif await self._is_processed(client, item):
                return loop.time() - whole
            await asyncio.sleep(0.2)
        return None

    async def _post_probe(self, client: Client) -> str:
        """Post a new item; returns its id if it was accepted in all regions: intake may still have an operating model
        of before."""
        self._probes += 1
        text = (
            f'{{"platform":"shop","kind":"product","id":"probe-{self._probes}","version":1,"markets":["DE","US"],'
            '"title":"Garden chair of oak, solid","brand":"Oak & Sons","price":{"amount_minor":5000,"currency":"EUR"}}'
        )
        facts, place = {"body": text, "bad": []}, (self._environment.port("intake"), "/v1/items")
        status, answer = await client.call("post", facts, place, text.encode(), timeout=5)
        return answer["item_id"] if status == 202 and answer["regions"].keys() == {*REGIONS} else ""

    async def _is_processed(self, client: Client, item: str) -> bool:
        event = {region: derived("event", item, "piepowder.item.submitted.v1", region) for region in REGIONS}
        answer = await client.get((self._environment.port("intake"), f"/v1/items/{item}"))
        if answer is None or answer.status != 200:
            return False
        regions = answer.json()["regions"]
        if any(regions.get(region, {}).get("status") != "approved" for region in REGIONS):
            return False
        for region in REGIONS:
            answer = await client.get((self._environment.port(f"audit-{region}"), f"/v1/events/{event[region]}"))
            if answer is None or answer.status != 200:
                return False
        return True

    async def _until_idle(self) -> None:
        """Wait until every group has read its topics to the end, within a limited time."""
        deadline = asyncio.get_running_loop().time() + _SETTLE
        while (behind := await self._environment.behind()) and asyncio.get_running_loop().time() < deadline:
            self._say(f"          still behind: {behind}")
            await asyncio.sleep(1)

    async def _check(self, topics: Topics, *, leases_end: float = 0.0) -> tuple[float, list[Violation], History]:
        """Check repeatedly until there is no violation, because some events may still be in flight: access is reported
        all the time, and the topics are read before the tables. A violation that is found twice without a backlog is
        real."""
        loop = asyncio.get_running_loop()
        started, before = loop.time(), list[Violation]()
        await self._until_idle()
        await asyncio.sleep(leases_end)
        while True:
            history = await self._read(topics)
            violations = await asyncio.to_thread(promises.check, history)
            passed = loop.time() - started
            behind = await self._environment.behind()
            hopeless = passed > _SETTLE / 4 and violations == before and not behind
            if not violations or passed > _SETTLE or hopeless:
                return passed, violations, history
            before = [] if behind else violations
            await asyncio.sleep(2)

    async def _replay(self, topics: Topics, injector: FaultInjector, before: History) -> list[Violation]:
        """Let every group read all records again: the results must not change."""
        self._say("          every group reads everything again")
        await injector.do(Planned("reset", "", 0.0, 0.0))
        await asyncio.to_thread(self._environment.system.wait_ready)
        _, violations, after = await self._check(topics)
        return violations + promises.compare(before, after)

    async def _read(self, topics: Topics) -> History:
        records = await topics.read()
        tables = await read_tables(self._environment.databases, REGIONS)
        size = self._journal.path.stat().st_size
        if self._read_journal is None or self._read_journal[0] != size:
            self._read_journal = size, await asyncio.to_thread(read_journal, self._journal.path)
        calls, planted, notes = self._read_journal[1]
        return History(MARKETS, calls, planted, notes, list(records), *tables)


def new_seed() -> int:
    """A seed to print."""
    return random.SystemRandom().randrange(10**6)
