"""The faults. Each one breaks something, keeps it broken for a time, and repairs it.

A schedule is drawn from a seed: the same seed gives the same faults with the same victims and durations, whatever the
system does. The next fault starts when the system has recovered from the last one, so that each fault has its own
recovery time. Two faults at once are a fault too.
"""

import asyncio
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from deploy import services
from deploy.local.kafka import KafkaNode
from deploy.local.postgres import LocalPostgres
from shared.contracts import topics
from tests.chaos import poison
from tests.chaos.environment import REGIONS, Environment
from tests.chaos.journal import Journal
from tests.chaos.operations import LOSING, RESTORED, Operations
from tests.chaos.proxy import Kind, NetworkFault

_PROCESSES: Final = services.processes(REGIONS)
SERVICES: Final = tuple(process.name for process in _PROCESSES)
_SINGLE: Final = tuple(service.name for service in services.SERVICES if not service.regional)
_STORING: Final = tuple(
    process.name for process in _PROCESSES if process.database and process.name != "intake-projection"
)
STAGES: Final = tuple(topic.__name__ for topic in topics.REGIONAL)
_STORMY: Final = ("submissions", "cases", "decisions", "requests")
_RECREATED: Final = ("requests", "decisions")  # topics without parked keys, and whose writers can be paused
_ROOM: Final = 128 * 2**20  # bytes of free space on a small disk


class Planned(NamedTuple):
    """A fault of a schedule: it starts after a `pause` in seconds and lasts about `seconds`."""

    fault: str
    victim: str
    seconds: float
    pause: float

    def __str__(self) -> str:
        return f"{self.fault} {self.victim} {self.seconds:.1f} s".replace("  ", " ")


class FaultInjector:
    """Causes the faults in a running environment."""

    def __init__(self, environment: Environment, journal: Journal, operations: Operations, seed: int) -> None:
        self._environment = environment
        self._journal = journal
        self._rng = random.Random(f"poison-{seed}")
        self.skipped = operations.skipped
        self._acts: dict[str, Callable[[str, float], Awaitable[None]]] = {
            "kill": self._kill,
            "pause": self._pause,
            "kill leader of": self._kill_leader,
            "pause leader of": self._pause_leader,
            "kill postgres": self._kill_postgres,
            "pause postgres": self._pause_postgres,
            "slow": lambda link, seconds: self._network("slow", link, seconds),
            "cut": lambda link, seconds: self._network("cut", link, seconds),
            "half-open": lambda link, seconds: self._network("half-open", link, seconds),
            "blind and kill": self._blind_and_kill,
            "pause postgres and kill": self._pause_postgres_and_kill,
            "clock of": self._clock,
            "poison": self._poison,
            "replicas of": self._replicas,
            "zombie of": self._zombie,
            "rolling restart": self._rolling_restart,
            "reset": self._reset,
            "full disk of": self._full_disk,
            "publish model": operations.publish_models,
            "restore of": operations.restore,
            "gap of": operations.gap,
            "storm on": operations.storm,
            "stop under load of": operations.stop,
            "recreation of": operations.recreate,
        }

    async def do(self, planned: Planned) -> None:
        """Cause a fault, keep it for its duration, and repair it."""
        if planned.fault == "two at once":
            first, second = (parse(text) for text in planned.victim.split(" + "))
            await asyncio.gather(self.do(first), self.do(second))
        else:
            await self._acts[planned.fault](planned.victim, planned.seconds)

    async def _kill(self, name: str, seconds: float) -> None:
        service = self._environment.system.services[name]
        await asyncio.to_thread(service.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(service.start)

    async def _pause(self, name: str, seconds: float) -> None:
        service = self._environment.system.services[name]
        service.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            service.resume()

    async def _kill_leader(self, topic: str, seconds: float) -> None:
        node = await self._environment.leader(topic)
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(node.start)

    async def _pause_leader(self, topic: str, seconds: float) -> None:
        node = await self._environment.leader(topic)
        node.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            node.resume()

    async def _kill_postgres(self, _: str, seconds: float) -> None:
        assert self._environment.postgres.child is not None
        await asyncio.to_thread(self._environment.postgres.child.kill)
        await asyncio.sleep(seconds)
        await self._start(self._environment.postgres)

    async def _pause_postgres(self, _: str, seconds: float) -> None:
        self._environment.signal_postgres(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._environment.signal_postgres(signal.SIGCONT)

    async def _network(self, kind: Kind, link: str, seconds: float) -> None:
        who, _, where = link.partition(">")
        network_fault = NetworkFault(kind, who, where)
        self._environment.proxies.begin(network_fault)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._environment.proxies.end(network_fault)

    async def _blind_and_kill(self, name: str, seconds: float) -> None:
        """Cut the service off from all brokers, then kill it: everything that it acknowledged too early is lost."""
        network_fault = NetworkFault("half-open", name, "kafka")
        self._environment.proxies.begin(network_fault)
        try:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._environment.system.services[name].kill)
        finally:
            self._environment.proxies.end(network_fault)
        await asyncio.to_thread(self._environment.system.services[name].start)

    async def _pause_postgres_and_kill(self, names: str, seconds: float) -> None:
        """Freeze PostgreSQL, so that records from Kafka cannot be stored, then kill the services."""
        services = [self._environment.system.services[name] for name in names.split(",")]
        self._environment.signal_postgres(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
            await asyncio.gather(*(asyncio.to_thread(service.kill) for service in services))
        finally:
            self._environment.signal_postgres(signal.SIGCONT)
        for service in services:
            await asyncio.to_thread(service.start)

    async def _clock(self, victim: str, seconds: float) -> None:
        name, _, jump = victim.partition(" by ")
        pid = self._environment.system.services[name].child.pid
        note = self._environment.clocks / str(pid)
        note.write_text(jump.removesuffix(" s"))
        try:
            await asyncio.sleep(seconds)
        finally:
            note.unlink(missing_ok=True)

    async def _poison(self, _: str, __: float) -> None:
        await poison.plant(self._environment, self._journal, self._rng, (REGIONS[0], REGIONS[1]))

    async def _replicas(self, name: str, seconds: float) -> None:
        """Start two more members of a consumer group, later stop them."""
        extra = [await asyncio.to_thread(self._environment.add_replica, name, number) for number in (1, 2)]
        await self._environment.joined(name, 3)
        await asyncio.sleep(seconds)
        await asyncio.gather(*(asyncio.to_thread(child.stop) for child in extra))

    async def _zombie(self, name: str, seconds: float) -> None:
        """Freeze one of two members until the other one owns its partitions, then let it continue."""
        extra = await asyncio.to_thread(self._environment.add_replica, name, 3)
        await self._environment.joined(name, 2)
        await asyncio.sleep(3)
        extra.pause()
        await asyncio.sleep(seconds)
        extra.resume()
        await asyncio.sleep(3)
        await asyncio.to_thread(extra.stop)

    async def _rolling_restart(self, _: str, __: float) -> None:
        system = self._environment.system
        for service in system.services.values():
            await asyncio.to_thread(service.stop)
            await asyncio.to_thread(service.start)
            await asyncio.to_thread(system.wait_ready)
        for node in self._environment.kafka.nodes:
            await asyncio.to_thread(node.stop)
            await asyncio.to_thread(node.start)
            await asyncio.sleep(2)
        await asyncio.to_thread(self._environment.postgres.stop)
        await self._start(self._environment.postgres)

    async def _reset(self, _: str, __: float) -> None:
        """Stop all services, set every group to its first offset, and start all services again."""
        services = list(self._environment.system.services.values())
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in services))
        try:
            await self._environment.reset_positions()
        finally:
            for service in services:
                await asyncio.to_thread(service.start)

    async def _full_disk(self, victim: str, seconds: float) -> None:
        """Move the server's data to a small disk, fill the disk, free the space, and move the data back."""
        if os.geteuid() != 0 or not sys.platform.startswith("linux"):
            self.skipped.append(f"full disk of {victim}: a small disk can be mounted by root on Linux only")
            return
        server = self._environment.postgres if victim == "postgres" else self._node(victim)
        folder = self._data(victim)
        await asyncio.to_thread(server.stop)
        mounted = await asyncio.to_thread(_small_disk, folder)
        if mounted:
            self._environment.mounted(folder)
        await self._start(server)
        if not mounted:
            self.skipped.append(f"full disk of {victim}: no small disk can be mounted here")
            return
        await asyncio.sleep(3)
        filler = folder / "filler"
        await asyncio.to_thread(_fill, filler)
        try:
            await asyncio.sleep(seconds)
        finally:
            filler.unlink(missing_ok=True)
        await self._start_if_it_died(victim)
        await asyncio.sleep(3)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(self._move_back, folder)
        await self._start(server)

    async def _start_if_it_died(self, victim: str) -> None:
        """Start a server again if it ended because the disk was full."""
        server = self._environment.postgres if victim == "postgres" else self._node(victim)
        await asyncio.sleep(1)
        if server.child is None or not server.child.alive:
            await self._start(server)

    async def _start(self, server: LocalPostgres | KafkaNode) -> None:
        if server is self._environment.postgres:
            self._journal.noted("postgres started", {})
        await asyncio.to_thread(server.start)

    def _move_back(self, folder: Path) -> None:
        original = folder.with_name(folder.name + ".aside")
        _copy(str(folder), original)
        self._environment.unmount(folder)
        folder.rmdir()
        original.rename(folder)

    def _data(self, victim: str) -> Path:
        if victim == "postgres":
            return self._environment.postgres.folder / "data"
        return self._environment.kafka.folder / f"data-{self._node(victim).number}"

    def _node(self, victim: str) -> KafkaNode:
        return self._environment.kafka.nodes[int(victim.rpartition("-")[2]) - 1]


def draw(seed: int, only: Collection[str] = ()) -> Iterator[Planned]:
    """An endless schedule of all faults, or of the ones in `only`: first each of them once, then some of them again."""
    rng = random.Random(f"faults-{seed}")
    bag: list[str] = []
    while True:
        if not bag:
            once = [name for name in _KINDS if not only or name in only]
            again = [name for name in once for _ in range(_KINDS[name][0] - 1)]
            rng.shuffle(once)
            rng.shuffle(again)
            bag = again + once
        yield _draw(rng, bag.pop())


def short() -> list[Planned]:
    """The most informative faults in the shortest time: each finds defects that the others do not find."""
    return [
        Planned("blind and kill", "intake", 3.0, 4.0),
        Planned("poison", "", 0.0, 2.0),
        Planned("publish model", "DE to us", 3.0, 1.0),
        Planned("restore of", "audit-eu in place", 2.0, 1.0),
        Planned("pause postgres and kill", "decision-eu,decision-us,audit-eu", 2.5, 1.0),
        Planned("kill leader of", "piepowder.submissions.eu", 2.0, 1.0),
    ]


def parse(text: str) -> Planned:
    """A fault from its printed form."""
    *words, seconds, _ = text.split(" ")
    name = max((kind for kind in _KINDS if " ".join(words).startswith(kind)), key=len)
    return Planned(name, " ".join(words).removeprefix(name).strip(), float(seconds), 0.0)


def kinds() -> list[str]:
    """The faults' names."""
    return list(_KINDS)


def _draw(rng: random.Random, name: str) -> Planned:
    victim, seconds = _KINDS[name][1](rng)
    return Planned(name, victim, seconds, rng.uniform(2.0, 8.0))


def _service(rng: random.Random) -> tuple[str, float]:
    return rng.choice(SERVICES), rng.choice((0.2, 2.0, 5.0))


def _stopped(rng: random.Random) -> tuple[str, float]:
    return rng.choice(SERVICES), rng.choice((1.0, 5.0, 20.0))


def _topic(rng: random.Random) -> tuple[str, float]:
    stage = rng.choice((*STAGES, "control"))
    topic = "piepowder.control" if stage == "control" else f"piepowder.{stage}.{rng.choice(REGIONS)}"
    return topic, rng.choice((1.0, 4.0, 8.0))


def _link(rng: random.Random) -> tuple[str, float]:
    kafka = [f"{name}>kafka" for name in (*SERVICES, "")]
    postgres = [f"{name}>postgres" for name in (*_STORING, "")]
    clients = [f"client>{name}" for name in ("intake", "decision-eu", "decision-us")]
    brokers = [f"broker-{follower}>peer-{leader}" for follower, leader in itertools.permutations((1, 2, 3), 2)]
    return rng.choice([*kafka, *postgres, *clients, *brokers, "intake>router"]), rng.choice((2.0, 6.0, 15.0))


def _one_service(seconds: float) -> Callable[[random.Random], tuple[str, float]]:
    return lambda rng: (rng.choice([name for name in SERVICES if name != "intake"]), seconds)


def _nothing(seconds: float) -> Callable[[random.Random], tuple[str, float]]:
    return lambda rng: ("", rng.uniform(0.5, 1.5) * seconds)


def _jump(rng: random.Random) -> tuple[str, float]:
    return f"{rng.choice(SERVICES)} by {rng.choice((-7200, -30, 30, 7200, 86400))} s", 10.0


def _restored(rng: random.Random) -> tuple[str, float]:
    names = [process.name for process in _PROCESSES if process.name != "intake-projection"]
    victim = rng.choice([name for name in names if name.partition("-")[0] in RESTORED])
    times = rng.choice(("", " twice")) if victim.startswith("decision") else ""
    return victim + times + rng.choice(("", " in place")), 4.0


def _stopped_in_order(rng: random.Random) -> tuple[str, float]:
    victim = rng.choice(("intake", "intake", *SERVICES))
    return victim + rng.choice(("", " beside frozen kafka", " beside frozen postgres")), 1.0


def _two(rng: random.Random) -> tuple[str, float]:
    apart = (("kill", "pause"), ("kill leader of", "pause leader of"), ("kill postgres", "pause postgres"))
    links = ("slow", "cut", "half-open")
    if rng.random() < 0.2:
        return _restore_and_end(rng)
    families = rng.sample([*apart, links], 2)
    planned = [_draw(rng, rng.choice(family)) for family in families]
    return " + ".join(map(str, planned)), max(one.seconds for one in planned)


def _restore_and_end(rng: random.Random) -> tuple[str, float]:
    """A restore of decision's database while decision is killed or paused."""
    victim, seconds = f"decision-{rng.choice(REGIONS)}", rng.choice((2.0, 6.0))
    restored = Planned("restore of", victim + rng.choice(("", " in place")), 4.0, 0.0)
    return f"{restored} + {Planned(rng.choice(('kill', 'pause')), victim, seconds, 0.0)}", 6.0


_KINDS: Final[dict[str, tuple[int, Callable[[random.Random], tuple[str, float]]]]] = {
    "kill": (4, _service),
    "pause": (3, _stopped),
    "kill leader of": (3, _topic),
    "pause leader of": (3, _topic),
    "kill postgres": (1, _nothing(2.0)),
    "pause postgres": (1, _nothing(6.0)),
    "slow": (1, _link),
    "cut": (2, _link),
    "half-open": (2, _link),
    "blind and kill": (1, lambda rng: (rng.choice(_SINGLE), 3.0)),
    "pause postgres and kill": (1, lambda _: (",".join(_STORING), 3.0)),
    "clock of": (2, _jump),
    "poison": (1, _nothing(0.0)),
    "replicas of": (1, _one_service(12.0)),
    "zombie of": (1, _one_service(20.0)),
    "rolling restart": (1, _nothing(0.0)),
    "reset": (1, _nothing(0.0)),
    "full disk of": (1, lambda rng: (rng.choice(("postgres", "kafka-1", "kafka-2", "kafka-3")), 5.0)),
    "two at once": (3, _two),
    "publish model": (2, lambda rng: (rng.choice(("DE to us", "FR to us", "US to eu", "CA to eu")), 8.0)),
    "restore of": (2, _restored),
    "gap of": (2, lambda rng: (f"{rng.choice(LOSING)}-{rng.choice(REGIONS)}", 3.0)),
    "storm on": (1, lambda rng: (f"piepowder.{rng.choice(_STORMY)}.{rng.choice(REGIONS)}", 0.0)),
    "stop under load of": (2, _stopped_in_order),
    "recreation of": (1, lambda rng: (f"piepowder.{rng.choice(_RECREATED)}.{rng.choice(REGIONS)}", 0.0)),
}


def _small_disk(folder: Path) -> bool:
    """Mount a small disk in place of a folder, with the same content; False if that is not allowed here."""
    size = _ROOM + sum(path.stat().st_blocks * 512 for path in (folder, *folder.rglob("*")))
    original = folder.with_name(folder.name + ".aside")
    folder.rename(original)
    folder.mkdir()
    shutil.copystat(original, folder)
    os.chown(folder, original.stat().st_uid, original.stat().st_gid)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "chaos", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        folder.rmdir()
        original.rename(folder)
        return False
    _copy(f"{original}/.", folder)
    shutil.rmtree(original)
    return True


def _copy(what: str, to: Path) -> None:
    copy = ["cp", "-a", what, str(to)]
    subprocess.run(copy, check=True, capture_output=True)


def _fill(path: Path) -> None:
    block = bytes(2**20)
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(block)
        except OSError:
            return
