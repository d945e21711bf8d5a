"""Apache Kafka on this machine: one node that is broker and controller, or three. The next start finds the
acknowledged records, also after SIGKILL. A mistyped name never creates a topic. With three nodes, every topic has
three replicas, and two of them must store a record; the timeouts are short, so that a killed leader delays producers
by seconds, not by half a minute."""

import base64
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploy.local.files import write_whole
from deploy.local.jars import Report, fetch_jars
from deploy.local.java import find_java
from deploy.local.kafka_probe import a_broker_responds, ask_brokers
from deploy.local.ports import free_ports
from deploy.local.process import Child, LocalServer, check, run, wait_until
from shared.runtime.private_files import make_private_folder
from shared.runtime.user_errors import UserError, file_errors

HOST = "127.0.0.1"
_START_SECONDS = 90.0
_STOP_SECONDS = 15.0

_SETTINGS = {
    "process.roles": "broker,controller",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # A killed broker may join again when its old session expires, by default after 9 seconds.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "message.max.bytes": str(4 * 2**20),
    "replica.fetch.max.bytes": str(4 * 2**20),
    "offsets.topic.num.partitions": "12",
    "transaction.state.log.num.partitions": "12",
    "share.coordinator.state.topic.num.partitions": "4",
    "log.cleaner.dedupe.buffer.size": str(32 * 2**20),
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
}

_SETTINGS_OF_THREE = {
    "controller.quorum.fetch.timeout.ms": "1500",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.election.backoff.max.ms": "500",
    "controller.quorum.request.timeout.ms": "1000",
    "replica.lag.time.max.ms": "4000",
    "replica.socket.timeout.ms": "3000",
}

_LOGGING = """\
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %-5p %c{1} %m%n
"""
_LOGGING_FLAGS = ["-Dlog4j2.configurationFile=log4j2.properties", "-Dlog4j2.disableJmx=true"]


class _Cluster(msgspec.Struct, frozen=True):
    """A folder's cluster: its id, and the ports (broker, controller) of node 1, 2, …"""

    id: str
    ports: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class KafkaNode:
    """A node: broker and controller. Fault tests control each node separately."""

    number: int
    child: Child
    port: int
    controller_port: int
    cancelled: threading.Event

    def start(self) -> None:
        """Start it (again) and wait until it accepts work. Raises `UserError` if it does not."""
        self.child.start()
        self.wait_for([self.number])

    def wait_for(self, numbers: Sequence[int]) -> None:
        """Wait until this node reports that the brokers of these numbers accept work."""

        def is_ready() -> bool:
            try:
                return ask_brokers(HOST, self.port).keys() >= set(numbers)
            except OSError:
                return False

        wait_until(self.child, is_ready, timeout=_START_SECONDS, cancelled=self.cancelled)

    def stop(self) -> None:
        self.child.stop(_STOP_SECONDS)

    def kill(self) -> None:
        self.child.kill()

    def pause(self) -> None:
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()


class LocalKafka(LocalServer):
    """A cluster that keeps its data, its id and, while they are free, its ports in `folder`."""

    def __init__(self, folder: Path, *, nodes: int = 1, report: Report = print) -> None:
        if nodes not in (1, 3):
            raise ValueError("one node or three")
        super().__init__(folder, report)
        self.nodes: list[KafkaNode] = []
        self._count = nodes

    @property
    def bootstrap(self) -> str:
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    @property
    def children(self) -> list[Child]:
        return [node.child for node in self.nodes]

    def start(self) -> str:
        """Start all nodes and wait until they accept work; returns the bootstrap servers.

        Raises `UserError` for an expected failure.
        """
        self._cancelled.clear()
        jars = fetch_jars(report=self._report, cancelled=self._cancelled)
        java = [str(find_java()), "-cp", os.pathsep.join(map(str, jars))]
        with file_errors(self.folder):
            make_private_folder(self.folder)
            write_whole(self.folder / "log4j2.properties", _LOGGING)
            taken = "Address already in use"
            self._start_with_retries(lambda: self._start_once(java), attempts=3, pause=0.0, passing=taken)
        return self.bootstrap

    def answers(self, child: Child) -> bool:
        return a_broker_responds(f"{HOST}:{self._node(child).port}")

    def restart(self, child: Child) -> None:
        child.stop(_STOP_SECONDS)
        check(self._cancelled)
        self._node(child).start()

    def _node(self, child: Child) -> KafkaNode:
        return next(node for node in self.nodes if node.child is child)

    def _start_once(self, java: list[str]) -> None:
        children = [self._child(number, java) for number in self._numbers()]
        for child in children:
            child.end_left_over()
        cluster = self._cluster()
        self.nodes = [
            KafkaNode(number, child, *ports, self._cancelled)
            for number, child, ports in zip(self._numbers(), children, cluster.ports, strict=True)
        ]
        for node in self.nodes:
            write_whole(self._config(node.number), self._settings(node, self._data(node.number).name))
        self._format(java, cluster)
        check(self._cancelled)
        for node in self.nodes:
            node.child.start()
        for node in self.nodes:
            node.wait_for(list(self._numbers()))

    def _numbers(self) -> range:
        return range(1, self._count + 1)

    def _data(self, number: int) -> Path:
        return self.folder / f"data-{number}"

    def _config(self, number: int) -> Path:
        return self.folder / f"server-{number}.properties"

    def _cluster(self) -> _Cluster:
        file = self.folder / "cluster.json"
        try:
            old = msgspec.json.decode(file.read_bytes(), type=_Cluster)
        except FileNotFoundError:
            old = _Cluster(_new_id(), ())
        except msgspec.DecodeError as error:
            raise UserError(
                f"{file} is not readable.", f"Remove the folder {self.folder} to start with an empty one."
            ) from error
        if len(old.ports) not in (0, self._count):
            raise UserError(
                f"{self.folder} holds a cluster of {len(old.ports)} nodes, not of {self._count}.",
                "Start that many, or choose another folder.",
            )
        flat = free_ports(2 * self._count, preferred=[port for pair in old.ports for port in pair])
        cluster = _Cluster(old.id, tuple(zip(flat[::2], flat[1::2], strict=True)))
        if cluster != old:
            write_whole(file, msgspec.json.encode(cluster).decode())
        return cluster

    def _settings(self, node: KafkaNode, data: str) -> str:
        copies, in_sync = str(self._count), str((self._count + 1) // 2)
        voters = ",".join(f"{other.number}@{HOST}:{other.controller_port}" for other in self.nodes)
        settings = _SETTINGS | {
            "node.id": str(node.number),
            "log.dirs": data,
            "listeners": f"PLAINTEXT://{HOST}:{node.port},CONTROLLER://{HOST}:{node.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{node.port}",
            "controller.quorum.voters": voters,
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": in_sync,
        }
        if self._count > 1:
            settings |= _SETTINGS_OF_THREE
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _format(self, java: list[str], cluster: _Cluster) -> None:
        formats: list[tuple[Child, Path, Path]] = []
        for node in self.nodes:
            data = self._data(node.number)
            if data.exists():
                continue
            self._report("Kafka: a new cluster" if self._count == 1 else f"Kafka: new node {node.number}")
            new, config = data.with_suffix(".new"), self.folder / f"format-{node.number}.properties"
            write_whole(config, self._settings(node, new.name))
            tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster.id, "-c", config.name]
            quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m"]
            command = [java[0], *quick, *_LOGGING_FLAGS, *java[1:], *tool]
            child = self._java("Kafka's format", command, f"format-{node.number}.log")
            child.start()
            formats.append((child, new, data))
        for child, new, data in formats:
            run(child, timeout=_START_SECONDS, cancelled=self._cancelled)
            new.rename(data)

    def _child(self, number: int, java: list[str]) -> Child:
        memory = ["-Xmx512m"] if self._count == 1 else ["-Xmx384m", "-XX:TieredStopAtLevel=1"]
        flags = [*memory, "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
        command = [java[0], *flags, *_LOGGING_FLAGS, *java[1:], "kafka.Kafka", self._config(number).name]
        name = "Kafka" if self._count == 1 else f"Kafka's node {number}"
        return self._java(name, command, f"kafka-{number}.log")

    def _java(self, name: str, command: list[str], log: str) -> Child:
        # Relative paths and a UTF-8 locale: the folder's name may have characters that Kafka's files cannot contain.
        return Child(name, command, log=self.folder / log, cwd=self.folder, env=os.environ | {"LC_ALL": "C.UTF-8"})


def _new_id() -> str:
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
