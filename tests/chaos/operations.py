"""Actions of operators, correct or by mistake, while the load runs: publish operating models, restore a database,
delete records, end a storm, stop a service, create a topic again.

Each action ends with the documented way out. The journal gets a note of what the action did to the system, so that the
checker can compare it with what the system reported. Every wait is limited.
"""

import asyncio
import copy
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from deploy.local.system import ServiceProcess
from deploy.services import SERVICES
from piepowder import positions
from shared.kafka import topic_admin
from shared.kafka.client_protocol import topic_ids
from shared.runtime.errors import Transient
from shared.runtime.user_errors import UserError
from tests.chaos import backup
from tests.chaos.checker.history import GENERATION, Record
from tests.chaos.checker.operations import STORM
from tests.chaos.checker.reading import Topics
from tests.chaos.environment import REGIONS, Environment
from tests.chaos.gate import Gate
from tests.chaos.journal import Journal
from tests.chaos.load import MARKETS, Client
from tests.chaos.poison import readers

RESTORED: Final = ("audit", "decision", "intake")
"""The services whose databases are restored."""

LOSING: Final = ("router", "audit")
"""The services that lose records, with a documented repair for each."""

STORM_RECORDS: Final = 3_000
_STORM_PORTION: Final = 500
_LEAST_GAP, _MOST_GAP = 3, 40  # records
_SUBMITTED: Final = b"piepowder.item.submitted.v1"
_QUEUE: Final = {"id": "chaos", "title": "Chaos", "service_level_minutes": 60}
_POLICY: Final = {"id": "chaos", "when": ['title.startsWith("Replica watch")'], "verdict": "review", "queue": "chaos"}
_ROOT: Final = Path(__file__).parents[2]
_TRIES: Final = 12
_TRY_SECONDS: Final = 3.0
_COMMAND_SECONDS: Final = 90.0
_REPORT_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 25.0
_LOOK_SECONDS: Final = 0.3
_UNDER_WAY_SECONDS: Final = 1.0  # until a record that a writer has sent is in the topic
_NOTICE_SECONDS: Final = 2.5  # until a service has noticed that its database was restored

Condition = Callable[[], Awaitable[bool]]


class Operations:
    """The actions in a running environment. The method of each fault has its victim and its duration as arguments."""

    def __init__(self, environment: Environment, journal: Journal, topics: Topics, client: Client, gate: Gate) -> None:
        self._environment = environment
        self._journal = journal
        self._topics = topics
        self._client = client
        self._gate = gate
        self.skipped: list[str] = []

    @property
    def _bootstrap(self) -> str:
        return self._environment.kafka.bootstrap

    # Operating models

    async def publish_models(self, move: str, seconds: float) -> None:
        """Move a market and add a queue with a policy; remove the queue; bring the market back. Meanwhile, try to
        remove a region, which owns markets."""
        market, _, to = move.partition(" to ")
        before = await self._in_force()
        rules = before["policy_set"]
        rules = {name: rules[name] for name in ("terms", "term_options", "default_verdict", "policies")}
        original = before["operating_model"]["regions"]
        moved = copy.deepcopy(original)
        for region in moved:
            region["markets"] = sorted({*region["markets"]} - {market} | ({market} if region["id"] == to else set()))
        with_queue = copy.deepcopy(moved)
        for region in with_queue:
            region["queues"] = [*region["queues"], _QUEUE]
        async with self._no_process_ends():
            try:
                await self._publish(with_queue, rules | {"policies": [*rules["policies"], _POLICY]})
                await self._until_followed(market, to)
                await asyncio.sleep(seconds / 2)
                await self._publish(moved, rules)
                await self._publish([region for region in moved if region["id"] == to], None, leaves=True)
                await asyncio.sleep(seconds / 2)
            finally:
                await self._publish(original, rules)
                await self._until_followed(market, MARKETS[market])

    async def _until_followed(self, market: str, region: str) -> None:
        """Wait until intake accepts new items of a market for a region, so that it cannot have an older model."""

        async def is_followed() -> bool:
            answer = await self._post(f"model-{time.time_ns()}", market)
            return answer is not None and answer["regions"].keys() == {region}

        if await self._until(is_followed, _REPORT_SECONDS):
            self._journal.noted("followed", {"market": market, "region": region})
        else:
            self._journal.noted("failed", {"what": f"items of {market} do not go to {region}"})

    async def _post(self, name: str, market: str) -> Any:
        """The response to a new item that policies approve; None if it was not accepted."""
        text = (
            f'{{"platform":"shop","kind":"product","id":"{name}","version":1,"markets":["{market}"],'
            '"title":"Garden chair of oak, solid","brand":"Oak & Sons","price":{"amount_minor":5000,"currency":"EUR"}}'
        )
        facts, place = {"body": text, "bad": []}, (self._environment.port("intake"), "/v1/items")
        status, answer = await self._client.call("post", facts, place, text.encode(), timeout=5)
        return answer if status == 202 else None

    async def _publish(
        self, regions: Sequence[Mapping[str, Any]], rules: Mapping[str, Any] | None, *, leaves: bool = False
    ) -> None:
        owners = {market: region["id"] for region in regions for market in region["markets"] if market in MARKETS}
        body: dict[str, Any] = {"operating_model": {"regions": regions}} | ({"policy_set": rules} if rules else {})
        missing = ", ".join({*REGIONS} - {region["id"] for region in regions})
        for _ in range(_TRIES):
            sent = time.time()
            status = await self._call("POST", body)
            facts = {"sent": sent, "answered": time.time(), "status": status, "markets": owners, "leaves": missing}
            self._journal.noted("model", facts)
            if status is not None and status < 500 and status != 429:
                if status != (422 if leaves else 200):
                    self._journal.noted("failed", {"what": f"an operating model got {status}", "regions": regions})
                return
            await asyncio.sleep(_TRY_SECONDS / 3)
        self._journal.noted("failed", {"what": "an operating model cannot be published", "regions": regions})

    async def _in_force(self) -> dict[str, Any]:
        for _ in range(_TRIES):
            try:
                async with self._http() as http:
                    answer = await http.get("/v1/control")
                    if answer.status_code == 200:
                        found: dict[str, Any] = answer.json()
                        return found
            except httpx.HTTPError:
                pass
            await asyncio.sleep(_TRY_SECONDS / 3)
        raise UserError("The router does not show the operating model in force.", "Look at its log.")

    async def _call(self, method: str, body: object) -> int | None:
        try:
            async with self._http() as http:
                return (await http.request(method, "/v1/control", json=body)).status_code
        except httpx.HTTPError:
            return None

    def _http(self) -> httpx.AsyncClient:
        system = self._environment.system
        headers = {"Authorization": f"Bearer {system.key()}"}
        return httpx.AsyncClient(base_url=system.url("router"), headers=headers, timeout=15, trust_env=False)

    # Restored databases

    async def restore(self, victim: str, seconds: float) -> None:
        """Dump a service's database, continue to work, and restore the dump while the service runs: beside the
        database, which is then replaced, or in place; and the same dump again, if the victim says `twice`.

        Business requests and clients wait meanwhile if it is intake's database: what it has of them since the backup,
        no other store has completely.
        """
        name, _, how = victim.partition(" ")
        in_place, times = "in place" in how, 2 if "twice" in how else 1
        async with self._no_process_ends():
            if name == "intake":
                async with self._gate.closed():
                    await self._restore(name, seconds, times, in_place=in_place)
            else:
                await self._restore(name, seconds, times, in_place=in_place)

    async def _restore(self, name: str, seconds: float, times: int, *, in_place: bool) -> None:
        url, folder = self._environment.databases[name], self._environment.folder
        file = folder / f"{name}.dump"
        dumped = time.time()
        await backup.dump(url, file)
        for n in range(times):
            if n > 0 and not await self._until_ready(name):
                self.skipped.append(f"a second restore of {name}: it is not ready after the first one")
                break
            await asyncio.sleep(seconds)
            dropped = await backup.restore(url, file, owner=self._environment.role, in_place=in_place)
            facts = {"database": name, "dumped": dumped, "in_place": in_place, **dropped._asdict()}
            self._journal.noted("restored", facts)
        file.unlink()

    async def _until_ready(self, name: str) -> bool:
        process = self._environment.system.services[name]

        async def is_ready() -> bool:
            conditions: dict[str, str] = (await self._readiness(process)).get("conditions") or {"all": "unknown"}
            return all(text == "ok" for text in conditions.values())

        await asyncio.sleep(_NOTICE_SECONDS)
        return await self._until(is_ready, _REPORT_SECONDS)

    # Missing records

    async def gap(self, victim: str, seconds: float) -> None:
        """Delete records that a stopped service has not read; then accept the loss. Items that the router lost are
        published again from the audit log, which has them."""
        kind, _, region = victim.rpartition("-")
        group, topic = f"piepowder-{victim}", f"piepowder.submissions.{region}"
        process = self._environment.system.services["router" if kind == "router" else victim]
        reading = [service.name for service in SERVICES if "submissions" in service.reads]
        others = [f"piepowder-{reader}-{region}" for reader in reading if reader != kind]
        await asyncio.to_thread(process.stop)
        try:
            await asyncio.sleep(seconds)
            found = await self._unread(group, topic, others)
            if found is None:
                self.skipped.append(f"gap of {victim}: it has no unread records that all others have read")
                return
            tp, lost = found
            first, before = lost[0].offset % GENERATION, lost[-1].offset % GENERATION + 1
            ids = await self._topic_ids([topic])
            missing = {"group": group, "topic": topic, "topic_id": ids[topic], "partition": tp.partition}
            self._journal.noted("missing", {**missing, "reason": "deleted", "first": first, "last": before - 1})
            await self._delete_records(tp, before)
        finally:
            await asyncio.to_thread(process.start)
        await self._until_reported(process, f"{topic}[{tp.partition}]: the records {first} to {before - 1} are missing")
        accept = ["positions", "accept-loss", group, topic, str(tp.partition), str(first), str(before - 1)]
        accept += ["--note", "chaos", "--kafka", self._bootstrap]
        if kind == "router":
            await asyncio.to_thread(process.stop)
            try:
                await self._command(*accept, tries=_TRIES)  # a static member stays for 15 s
            finally:
                await asyncio.to_thread(process.start)
            await self._reconcile(region, lost)
        else:
            await self._command(*accept, "--database", self._environment.databases[victim])

    async def _unread(
        self, group: str, topic: str, others: Sequence[str]
    ) -> tuple[TopicPartition, list[Record]] | None:
        """The longest range of items at the position of `group` in a partition that all other groups have read.

        The range ends before the first withdrawal, notice or appeal, because `_reconcile` checks items only.
        """
        best: tuple[TopicPartition, list[Record]] | None = None

        async def is_long_enough() -> bool:
            nonlocal best
            starts, ends = await self._positions(group), [await self._committed(other) for other in others]
            records = sorted(await self._topics.read(), key=lambda record: record.offset)
            for tp in await self._environment.places([topic]):
                start, end = starts.get(tp, 0), min(of.get(tp, 0) for of in ends)
                lane = [r for r in records if (r.topic, r.partition) == tp and start <= r.offset % GENERATION < end]
                items = []
                for record in lane[:_MOST_GAP]:
                    if dict(record.headers).get("ce_type") != _SUBMITTED:
                        break
                    items.append(record)
                if items and (best is None or len(items) > len(best[1])):
                    best = tp, items
            return best is not None and len(best[1]) >= _LEAST_GAP

        await self._until(is_long_enough, _IDLE_SECONDS)
        return best

    async def _reconcile(self, region: str, lost: Sequence[Record]) -> None:
        """Publish the lost items again; succeed when none of them is `submitted`."""
        items = [msgspec.json.decode(record.value or b"")["item_id"] for record in lost]

        async def are_settled() -> bool:
            place = self._environment.port("intake")
            for item in items:
                answer = await self._client.get((place, f"/v1/items/{item}"))
                if answer is None or answer.status != 200:
                    return False
                if answer.json()["regions"].get(region, {}).get("status") in (None, "submitted"):
                    return False
            return True

        for _ in range(_TRIES):
            await self._command(
                "reconcile", "--region", region, "--minutes", "0.2", "--wait", "5", "--kafka", self._bootstrap,
                allowed=(0, 1),
            )  # fmt: skip
            if await self._until(are_settled, _TRY_SECONDS):
                return
        self._journal.noted("failed", {"what": f"piepowder reconcile did not repeat all of {items}"})

    async def _delete_records(self, tp: TopicPartition, before: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=20_000)
        try:
            await admin.start()
            await admin.delete_records({tp: RecordsToDelete(before_offset=before)})
        finally:
            await admin.close()

    # A storm

    async def storm(self, topic: str, _seconds: float) -> None:
        """Publish records that are no events until all readers have stopped the topic; then dead-letter them with the
        command of the runbook."""
        stage, region = topic.split(".")[1:]
        groups = [f"piepowder-{reader}-{region}" for reader in (*readers(stage), "audit")]
        async with self._no_process_ends():
            producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all")
            await producer.start()
            try:
                for start in range(0, STORM_RECORDS, _STORM_PORTION):
                    sending = [
                        await producer.send(topic, b"no event", str(n).encode())
                        for n in range(start, start + _STORM_PORTION)
                    ]
                    for place in await asyncio.gather(*sending):
                        self._journal.planted(STORM, place.topic, place.partition, place.offset, groups)
            finally:
                await producer.stop()
            stopped: dict[str, list[str]] = {}
            expected = {group: [topic] for group in sorted(groups)}

            async def all_stopped() -> bool:
                nonlocal stopped
                stopped = await self._stopped_topics()
                return stopped == expected

            await self._until(all_stopped, _REPORT_SECONDS)
            other = await self._continues(next(one for one in REGIONS if one != region))
            facts = {"topic": topic, "stopped": stopped, "expected": expected, "other_region": other}
            self._journal.noted("storm", facts)
            await self._command("stopped", "dead-letter", "--topic", topic, "--only-failing", tries=2)

    async def _stopped_topics(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for process in self._environment.system.services.values():
            answer = await self._readiness(process)
            found |= {group: sorted(topics) for group, topics in (answer.get("stopped") or {}).items()}
        return dict(sorted(found.items()))

    async def _continues(self, region: str) -> bool:
        """True if a new item of the region gets a decision."""
        market = next(market for market, owner in MARKETS.items() if owner == region)
        place, item = self._environment.port("intake"), ""

        async def is_decided() -> bool:
            nonlocal item
            if not item:
                answer = await self._post(f"storm-{time.time_ns()}", market)
                item = "" if answer is None else answer["item_id"]
                return False
            shown = await self._client.get((place, f"/v1/items/{item}"))
            if shown is None or shown.status != 200:
                return False
            return bool(shown.json()["regions"].get(region, {}).get("status") == "approved")

        return await self._until(is_decided, _REPORT_SECONDS)

    # Stops

    async def stop(self, victim: str, seconds: float) -> None:
        """Stop a service with SIGTERM while calls are under way, also while Kafka or PostgreSQL is frozen."""
        name, _, frozen = victim.partition(" beside frozen ")
        process = self._environment.system.services[name]
        self._freeze(frozen, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
            asked = time.time()
            await asyncio.to_thread(process.stop, _STOP_SECONDS)
            facts = {"service": name, "frozen": frozen, "asked": asked, "ended": time.time()}
            self._journal.noted("stopped", {**facts, "code": process.child.returncode})
        finally:
            self._freeze(frozen, signal.SIGCONT)
        await asyncio.to_thread(process.start)

    def _freeze(self, what: str, number: signal.Signals) -> None:
        if what == "postgres":
            self._environment.signal_postgres(number)
        elif what == "kafka":
            for node in self._environment.kafka.nodes:
                (node.pause if number == signal.SIGSTOP else node.resume)()

    # Topics that are created again

    async def recreate(self, topic: str, _seconds: float) -> None:
        """Delete a topic that all readers have read, create it again while they run, and accept the loss, of no
        record, for each of them. Its writers are paused until it exists again: no record is lost unseen."""
        stage, region = topic.split(".")[1:]
        writers = [self._process_of(service.name, region) for service in SERVICES if stage in service.writes]
        groups = [group for group, topics in self._environment.groups.items() if topic in topics]
        places = await self._environment.places([topic])
        async with self._no_process_ends():
            for writer in writers:
                writer.pause()
            try:
                ends = await self._until_read(groups, places)
                if ends is None:
                    self.skipped.append(f"recreation of {topic}: its readers are behind")
                    return
                await self._topics.read()
                topic_id = await self._recreate(topic)
                await self._topics.recreated(topic)
                self._journal.noted("recreated", {"topic": topic, "topic_id": topic_id})
            finally:
                for writer in writers:
                    writer.resume()
            for group in groups:
                kind = group.removeprefix("piepowder-").removesuffix(f"-{region}")
                process = self._process_of("intake-projection" if kind == "intake" else kind, region)
                await self._until_reported(process, "the topic was deleted and created again")
                for tp in places:
                    missing = {"group": group, "topic": topic, "topic_id": topic_id, "partition": tp.partition}
                    self._journal.noted("missing", {**missing, "reason": "recreated", "first": ends[tp]})
                    await self._accept_recreation(group, self._environment.databases[process.name], tp, ends[tp])

    async def _until_read(
        self, groups: Sequence[str], places: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int] | None:
        """The ends of the partitions, when all groups have read them; None if that takes too long.

        Records of the paused writers can be on their way to Kafka, so the ends must not have moved for a while.
        """
        ends: dict[TopicPartition, int] = {}
        since = 0.0

        async def are_read() -> bool:
            nonlocal ends, since
            before, ends = ends, await self._ends(places)
            if ends != before:
                since = time.monotonic()
            read = [await self._positions(group) for group in groups]
            settled = time.monotonic() - since >= _UNDER_WAY_SECONDS
            return settled and all(of.get(tp, 0) == end for of in read for tp, end in ends.items())

        return ends if await self._until(are_read, _IDLE_SECONDS) else None

    async def _recreate(self, topic: str) -> str:
        """Delete the topic and create it as before; returns its new id."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=20_000)
        await admin.start()
        try:
            before = (await self._topic_ids([topic]))[topic]
            await admin.delete_topics([topic])
        finally:
            await admin.close()
        wanted = [spec for spec in topic_admin.expand(topic_admin.load(), REGIONS) if spec.name == topic]
        found = ""

        async def exists_again() -> bool:
            nonlocal found
            try:
                await topic_admin.ensure(self._bootstrap, wanted)
                found = (await self._topic_ids([topic])).get(topic, "")
            except (Transient, KafkaError):
                return False
            return found not in ("", before)

        if not await self._until(exists_again, _REPORT_SECONDS):
            raise UserError(f"{topic} cannot be created again.", "Look at Kafka's log.")
        return found

    async def _accept_recreation(self, group: str, database: str, tp: TopicPartition, first: int) -> None:
        async def is_accepted() -> bool:
            try:
                await positions.accept_loss(
                    self._bootstrap, database=database, group=group, tp=tp, first=first, last=None, by="chaos",
                    note="chaos",
                )  # fmt: skip
            except (UserError, Transient):
                return False
            return True

        if not await self._until(is_accepted, _IDLE_SECONDS):
            self._journal.noted("failed", {"what": f"the loss of {group} in {tp} cannot be accepted"})

    def _process_of(self, service: str, region: str) -> ServiceProcess:
        services = self._environment.system.services
        return services.get(f"{service}-{region}") or services[service]

    # Tools

    @asynccontextmanager
    async def _no_process_ends(self) -> AsyncIterator[None]:
        """Note the processes that end by themselves meanwhile."""
        services = self._environment.system.services
        before = {name: process.restarts for name, process in services.items()}
        yield
        ended = [name for name, process in services.items() if process.child.failed or before[name] != process.restarts]
        if ended:
            self._journal.noted("ended", {"services": ended})

    async def _until_reported(self, process: ServiceProcess, text: str) -> None:
        """Wait until the service's readiness has a text; note if that takes too long."""

        async def is_reported() -> bool:
            return text in str((await self._readiness(process)).get("conditions"))

        if not await self._until(is_reported, _REPORT_SECONDS):
            found = (await self._readiness(process)).get("conditions")
            self._journal.noted("unreported", {"what": f"{process.name} does not say: {text}", "conditions": found})

    async def _readiness(self, process: ServiceProcess) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
                found: dict[str, Any] = (await http.get(f"{process.url}/readyz")).json()
                return found
        except (httpx.HTTPError, ValueError):
            return {}

    async def _command(self, *arguments: str, tries: int = 3, allowed: Sequence[int] = (0,)) -> None:
        """Run `piepowder` until its exit status is allowed; note the last failure otherwise."""
        code, output = -1, ""
        for attempt in range(tries):
            if attempt:
                await asyncio.sleep(_TRY_SECONDS)
            code, output = await self._run(arguments)
            if code in allowed:
                return
        self._journal.noted("failed", {"what": f"piepowder {' '.join(arguments)}: {code}", "output": output[-2000:]})

    async def _run(self, arguments: Sequence[str]) -> tuple[int, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PIEPOWDER_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "piepowder", *arguments,
            cwd=_ROOT, env=env | {"PIEPOWDER_FOLDER": str(self._environment.system.folder), "COLUMNS": "200"},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            return -1, f"no end within {_COMMAND_SECONDS:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode or 0, re.sub(r"\s+", " ", output.decode(errors="replace"))

    async def _until(self, condition: Condition, seconds: float) -> bool:
        """True when the condition holds, False after `seconds`."""
        end = asyncio.get_running_loop().time() + seconds
        while not await condition():
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    async def _positions(self, group: str) -> dict[TopicPartition, int]:
        """The position of a group in each partition: from its database, or the committed offsets of the router."""
        database = next((url for name, url in self._environment.databases.items() if _stores(name, group)), None)
        found = await positions.find(self._bootstrap, database=database, group=group)
        return {each.partition: each.stored.position for each in found}

    async def _committed(self, group: str) -> dict[TopicPartition, int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=10_000)
        try:
            await admin.start()
            found = await admin.list_consumer_group_offsets(group)
            return {tp: offset.offset for tp, offset in found.items()}
        finally:
            await admin.close()

    async def _ends(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, client_id="chaos-operator")
        await consumer.start()
        try:
            ends: dict[TopicPartition, int] = await consumer.end_offsets(list(places))
            return ends
        finally:
            await consumer.stop()

    async def _topic_ids(self, names: Sequence[str]) -> dict[str, str]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, client_id="chaos-operator")
        await consumer.start()
        try:
            return dict(await topic_ids(consumer, names))
        except UnknownTopicOrPartitionError:
            return {}
        finally:
            await consumer.stop()


def _stores(database: str, group: str) -> bool:
    """True if the database has the positions of the group."""
    service, _, region = database.partition("-")
    return group.startswith(f"piepowder-{service}-") and group.endswith(region)
