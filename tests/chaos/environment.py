"""The environment of a run: three brokers and PostgreSQL behind proxies, and the services that use them.

Each broker has an additional listener for clients, and advertises a proxy on each listener: `kafka-1` to clients,
`peer-1` to the other brokers and to the checker, which no fault disturbs. PostgreSQL and the services' REST APIs have a
proxy each. All ports are loopback ports.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy.local.kafka import HOST, KafkaNode, LocalKafka
from deploy.local.ports import free_ports
from deploy.local.postgres import LocalPostgres
from deploy.local.process import Child
from deploy.local.system import System
from deploy.services import SERVICES, processes
from piepowder import positions
from tests.chaos.checker.reading import topic_names
from tests.chaos.proxy import Proxies, kafka_client, postgres_client, web_client

REGIONS: Final = ("eu", "us")
_NODES: Final = 3
_PREFIX: Final = "chaos"
_EMPTY_SECONDS: Final = 60.0
_JOIN_SECONDS: Final = 40.0


class _Brokers(LocalKafka):
    """Three brokers; each advertises one proxy to clients and one to its peers."""

    def __init__(self, folder: Path, proxies: Proxies, *, say: Callable[[str], None]) -> None:
        super().__init__(folder, nodes=_NODES, report=say)
        self._client_ports = free_ports(_NODES)
        self._advertised = [
            proxies.open(f"kafka-{number + 1}", partial(int, port), kafka_client)
            for number, port in enumerate(self._client_ports)
        ]
        self._peers = [
            proxies.open(f"peer-{number + 1}", partial(self._port, number), kafka_client) for number in range(_NODES)
        ]

    @property
    def proxied(self) -> str:
        """The bootstrap servers of clients that go through the proxies."""
        return ",".join(f"{HOST}:{port}" for port in self._advertised)

    def _port(self, number: int) -> int:
        return self.nodes[number].port

    def _settings(self, node: KafkaNode, data: str) -> str:
        mine, advertised = self._client_ports[node.number - 1], self._advertised[node.number - 1]
        peer = self._peers[node.number - 1]
        own = {
            "listeners": f"PLAINTEXT://{HOST}:{node.port},CONTROLLER://{HOST}:{node.controller_port}"
            f",CLIENTS://{HOST}:{mine}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{peer},CLIENTS://{HOST}:{advertised}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENTS:PLAINTEXT",
        }
        return super()._settings(node, data) + "".join(f"{name}={value}\n" for name, value in own.items())


class _Servers:
    """The servers of a `System`: the addresses of the proxies."""

    def __init__(self, kafka: str, database_url: str) -> None:
        self.kafka = kafka
        self.database_url = database_url


class Environment:
    """All servers and services of a run. `say` receives messages for people."""

    def __init__(self, folder: Path, *, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.clocks = folder / "clocks"
        self.proxies = Proxies()
        self._say = say
        self._mounts: list[Path] = []
        self._replicas: list[Child] = []
        self._partitions: dict[str, int] = {}

    @property
    def logs(self) -> Path:
        """The folder of the services' logs."""
        return self.folder / "system" / "logs"

    async def start(self) -> None:
        """Start everything; raises `StackError` if that fails."""
        self.clocks.mkdir(parents=True)
        self.proxies.start()
        self.kafka = _Brokers(self.folder / "kafka", self.proxies, say=self._say)
        self.postgres = LocalPostgres(self.folder / "postgres", report=self._say)
        await asyncio.gather(asyncio.to_thread(self.kafka.start), asyncio.to_thread(self.postgres.start))
        database = self.proxies.open("postgres", lambda: urlsplit(self.postgres.url).port or 0, postgres_client)
        url = urlsplit(self.postgres.url)
        proxied = url._replace(netloc=f"{url.username}:{url.password}@{HOST}:{database}").geturl()
        with _variables(PYTHONPATH=str(Path(__file__).with_name("clocks")), CHAOS_CLOCKS=str(self.clocks)):
            servers = _Servers(self.kafka.proxied, proxied)
            self.system = System(servers, REGIONS, self.folder / "system", databases=_PREFIX, report=self._say)
            await asyncio.to_thread(self.system.start)
        self._web = {
            name: self.proxies.open(name, partial(int, service.port), web_client)
            for name, service in self.system.services.items()
        }
        await asyncio.to_thread(self._proxy_calls_to_router)

    def _proxy_calls_to_router(self) -> None:
        """Let intake call the router through a proxy."""
        router = self.proxies.open("router", partial(int, self.system.services["router"].port), lambda _: "intake")
        for service in self.system.services.values():
            if "router" not in service.spec.service.calls:
                continue
            assert service.child.env is not None
            service.child.env |= {"PIEPOWDER_ROUTER": f"http://{HOST}:{router}"}
            service.stop()
            service.start()
        self.system.wait_ready()

    def mounted(self, folder: Path) -> None:
        """Remember that a disk is mounted at `folder`, until `unmount` or the end."""
        self._mounts.append(folder)

    def unmount(self, folder: Path) -> None:
        """Unmount a disk."""
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)  # noqa: S607 - found by PATH
        self._mounts.remove(folder)

    async def stop(self) -> None:
        """Stop everything that was started, within a limited time."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        for child in self._replicas:
            child.kill()
        if hasattr(self, "system"):
            for service in self.system.services.values():
                service.resume()
            self.system.stop()
        if hasattr(self, "postgres"):
            self.signal_postgres(signal.SIGCONT)
            self.postgres.stop()
        if hasattr(self, "kafka"):
            for node in self.kafka.nodes:
                node.resume()
            self.kafka.stop()
        self.proxies.stop()
        for folder in list(self._mounts):
            self.unmount(folder)

    @property
    def services(self) -> list[str]:
        return list(self.system.services)

    def port(self, service: str) -> int:
        """The port of a service's proxy."""
        return self._web[service]

    @property
    def databases(self) -> dict[str, str]:
        """The services' databases, without the proxy."""
        base = self.postgres.url.rpartition("/")[0]
        return {one.name: f"{base}/{_PREFIX}_{one.database}" for one in processes(REGIONS) if one.database}

    @property
    def role(self) -> str:
        """The role of the services, which owns their databases."""
        return f"{_PREFIX}_services"

    @property
    def groups(self) -> dict[str, list[str]]:
        """The topics of each consumer group."""
        groups: dict[str, list[str]] = {}
        for region in REGIONS:
            all_topics = topic_names([region])
            control, submissions, cases, _, requests, access, _ = all_topics
            groups[f"piepowder-router-{region}"] = [submissions]
            groups[f"piepowder-decision-{region}"] = [cases]
            others = (control, requests, access)
            groups[f"piepowder-intake-{region}"] = [topic for topic in all_topics if topic not in others]
            groups[f"piepowder-intake-clients-{region}"] = [access]
            groups[f"piepowder-audit-{region}"] = all_topics
        return groups

    async def leader(self, topic: str, partition: int = 0) -> KafkaNode:
        """The broker that leads a partition; the first broker if the leader is not known."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap, request_timeout_ms=5000)
        try:
            await admin.start()
            [described] = await admin.describe_topics([topic])
            leaders = {p["partition"]: p["leader"] for p in described["partitions"]}
        except (KafkaError, OSError):
            leaders = {}
        finally:
            await admin.close()
        number = leaders.get(partition, -1)
        return next((node for node in self.kafka.nodes if node.number == number), self.kafka.nodes[0])

    async def places(self, topics: list[str]) -> list[TopicPartition]:
        """The partitions of these topics."""
        missing = [topic for topic in topics if topic not in self._partitions]
        if missing:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap, request_timeout_ms=10_000)
            try:
                await admin.start()
                for described in await admin.describe_topics(missing):
                    self._partitions[described["topic"]] = len(described["partitions"])
            finally:
                await admin.close()
        return [TopicPartition(topic, n) for topic in topics for n in range(self._partitions[topic])]

    def signal_postgres(self, number: signal.Signals) -> None:
        """Send a signal to PostgreSQL and to its child processes, which serve the connections."""
        if self.postgres.child is None or self.postgres.child.pid is None or not self.postgres.child.alive:
            return
        parent = self.postgres.child.pid
        for pid in [parent, *_children(parent)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def add_replica(self, service: str, number: int) -> Child:
        """Start one more process of a service, as another member of its groups."""
        original = self.system.services[service].child
        env = dict(original.env or {}) | {"PIEPOWDER_INSTANCE": f"extra-{number}", "PIEPOWDER_PORT": "0"}
        log = self.logs / f"{service}-extra-{number}.log"
        child = Child(f"{service} (extra {number})", original.argv, log=log, env=env, cwd=original.cwd)
        self._replicas.append(child)
        child.start()
        return child

    async def joined(self, service: str, members: int) -> None:
        """Wait until the group of a service has this number of members, at most `_JOIN_SECONDS`."""
        kind, _, region = service.partition("-")
        group = f"piepowder-{kind}-{region if region in REGIONS else REGIONS[0]}"
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap, request_timeout_ms=5000)
        deadline = asyncio.get_running_loop().time() + _JOIN_SECONDS
        try:
            await admin.start()
            while asyncio.get_running_loop().time() < deadline:
                [answer] = await admin.describe_consumer_groups([group])
                state, found = answer.groups[0][2], answer.groups[0][5]
                if state == "Stable" and len(found) >= members:
                    return
                await asyncio.sleep(0.5)
            self._say(f"         {group} does not have {members} members")
        except KafkaError as error:
            self._say(f"The members of {group} are not known: {error}")
        finally:
            await admin.close()

    async def reset_positions(self) -> None:
        """Set every group to its first record, while the services are stopped."""
        for service in (service for service in SERVICES if service.database):
            for region in REGIONS if service.regional else ("",):
                database = self.databases[f"{service.name}-{region}".rstrip("-")]
                for group in self.groups:
                    if group.startswith(f"piepowder-{service.name}-{region}"):
                        await positions.reset(self.kafka.bootstrap, database=database, group=group)
        await self._reset_offsets()

    async def _reset_offsets(self) -> None:
        """Set the offsets of every group to its first records when it has no members.

        Static members stay for 15 s after a stop. For groups with a database the offsets are information, by which
        `behind` knows that the group has not read yet.
        """
        for group, topics in self.groups.items():
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.kafka.bootstrap,
                group_id=group,
                client_id="chaos-reset",
                enable_auto_commit=False,
            )
            await consumer.start()
            try:
                places = await self.places(topics)
                consumer.assign(places)
                starts = await consumer.beginning_offsets(places)
                deadline = asyncio.get_running_loop().time() + _EMPTY_SECONDS
                while True:
                    try:
                        await consumer.commit(starts)
                        break
                    except KafkaError:
                        if asyncio.get_running_loop().time() > deadline:
                            raise
                        await asyncio.sleep(0.5)
            finally:
                await consumer.stop()

    async def behind(self) -> dict[str, int]:
        """The number of records that each group has not committed; only groups with a backlog."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap, request_timeout_ms=10_000)
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.bootstrap, client_id="chaos-lag")
        try:
            await admin.start()
            await consumer.start()
            found: dict[str, int] = {}
            for group, topics in self.groups.items():
                ends = await consumer.end_offsets(await self.places(topics))
                committed: dict[TopicPartition, Any] = await admin.list_consumer_group_offsets(group)
                lag = sum(
                    max(0, end - (committed[tp].offset if tp in committed and committed[tp].offset > 0 else 0))
                    for tp, end in ends.items()
                )
                if lag:
                    found[group] = lag
            return found
        finally:
            await consumer.stop()
            await admin.close()


@contextmanager
def _variables(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found
