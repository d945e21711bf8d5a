"""What can go wrong, each as an act with an end: it breaks something, holds it broken, and makes it whole again.

A schedule is drawn from a seed: the same seed draws the same faults with the same victims and the same lengths,
whatever the system does meanwhile. The next one begins when the system has recovered from the last, so that each has a
recovery time of its own; two at once are a fault too.
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

from deploy.local.kafka import KafkaNode
from deploy.services import processes
from shared.contracts import topics
from tests.chaos import poison
from tests.chaos.ground import REGIONS, Ground
from tests.chaos.journal import Journal
from tests.chaos.proxy import Kind, Trouble

SERVICES: Final = tuple(process.name for process in processes(("eu", "us")))
STAGES: Final = tuple(topic.__name__ for topic in topics.REGIONAL)
_ROOM: Final = 128 * 2**20  # what a small disk has left, in bytes


class Planned(NamedTuple):
    """A fault of a schedule: after `pause` seconds of peace. `seconds` is how long it lasts, about."""

    fault: str
    victim: str
    seconds: float
    pause: float

    def __str__(self) -> str:
        return f"{self.fault} {self.victim} {self.seconds:.1f} s".replace("  ", " ")


class Hands:
    """Breaks things on the ground."""

    def __init__(self, ground: Ground, journal: Journal, seed: int) -> None:
        self._ground = ground
        self._journal = journal
        self._rng = random.Random(f"poison-{seed}")
        self.skipped: list[str] = []
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
        }

    async def do(self, planned: Planned) -> None:
        """Break, hold, mend."""
        if planned.fault == "two at once":
            first, second = (parse(text) for text in planned.victim.split(" + "))
            await asyncio.gather(self.do(first), self.do(second))
        else:
            await self._acts[planned.fault](planned.victim, planned.seconds)

    async def _kill(self, name: str, seconds: float) -> None:
        service = self._ground.system.services[name]
        await asyncio.to_thread(service.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(service.start)

    async def _pause(self, name: str, seconds: float) -> None:
        service = self._ground.system.services[name]
        service.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            service.resume()

    async def _kill_leader(self, topic: str, seconds: float) -> None:
        node = await self._ground.leader(topic)
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(node.start)

    async def _pause_leader(self, topic: str, seconds: float) -> None:
        node = await self._ground.leader(topic)
        node.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            node.resume()

    async def _kill_postgres(self, _: str, seconds: float) -> None:
        assert self._ground.postgres.child is not None
        await asyncio.to_thread(self._ground.postgres.child.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._ground.postgres.start)

    async def _pause_postgres(self, _: str, seconds: float) -> None:
        self._ground.signal_postgres(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._ground.signal_postgres(signal.SIGCONT)

    async def _network(self, kind: Kind, link: str, seconds: float) -> None:
        who, _, where = link.partition(">")
        trouble = Trouble(kind, who, where)
        self._ground.proxies.begin(trouble)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._ground.proxies.end(trouble)

    async def _blind_and_kill(self, name: str, seconds: float) -> None:
        """No broker answers the service, and in the middle of that it is killed: what it told too early is lost."""
        trouble = Trouble("half-open", name, "kafka")
        self._ground.proxies.begin(trouble)
        try:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._ground.system.services[name].kill)
        finally:
            self._ground.proxies.end(trouble)
        await asyncio.to_thread(self._ground.system.services[name].start)

    async def _pause_postgres_and_kill(self, names: str, seconds: float) -> None:
        """What is taken from Kafka cannot be stored; in the middle of that the services are killed."""
        services = [self._ground.system.services[name] for name in names.split(",")]
        self._ground.signal_postgres(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
            await asyncio.gather(*(asyncio.to_thread(service.kill) for service in services))
        finally:
            self._ground.signal_postgres(signal.SIGCONT)
        for service in services:
            await asyncio.to_thread(service.start)

    async def _clock(self, victim: str, seconds: float) -> None:
        name, _, jump = victim.partition(" by ")
        pid = self._ground.system.services[name].child.pid
        note = self._ground.clocks / str(pid)
        note.write_text(jump.removesuffix(" s"))
        try:
            await asyncio.sleep(seconds)
        finally:
            note.unlink(missing_ok=True)

    async def _poison(self, _: str, __: float) -> None:
        await poison.plant(self._ground, self._journal, self._rng, (REGIONS[0], REGIONS[1]))

    async def _replicas(self, name: str, seconds: float) -> None:
        """One member becomes three, and one again."""
        extra = [await asyncio.to_thread(self._ground.add_replica, name, number) for number in (1, 2)]
        await self._ground.joined(name, 3)
        await asyncio.sleep(seconds)
        await asyncio.gather(*(asyncio.to_thread(child.stop) for child in extra))

    async def _zombie(self, name: str, seconds: float) -> None:
        """One of two members stands still until its partitions are the other's, and then wakes up."""
        extra = await asyncio.to_thread(self._ground.add_replica, name, 3)
        await self._ground.joined(name, 2)
        await asyncio.sleep(3)
        extra.pause()
        await asyncio.sleep(seconds)
        extra.resume()
        await asyncio.sleep(3)
        await asyncio.to_thread(extra.stop)

    async def _rolling_restart(self, _: str, __: float) -> None:
        system = self._ground.system
        for service in system.services.values():
            await asyncio.to_thread(service.stop)
            await asyncio.to_thread(service.start)
            await asyncio.to_thread(system.wait_ready)
        for node in self._ground.kafka.nodes:
            await asyncio.to_thread(node.stop)
            await asyncio.to_thread(node.start)
            await asyncio.sleep(2)
        await asyncio.to_thread(self._ground.postgres.stop)
        await asyncio.to_thread(self._ground.postgres.start)

    async def _reset(self, _: str, __: float) -> None:
        """All services stop, every group goes to its first offset, all start again."""
        services = list(self._ground.system.services.values())
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in services))
        try:
            await self._ground.reset_offsets()
        finally:
            for service in services:
                await asyncio.to_thread(service.start)

    async def _full_disk(self, victim: str, seconds: float) -> None:
        """The server's data is moved to a small disk, which fills up; then there is room again, and it moves back."""
        if os.geteuid() != 0 or not sys.platform.startswith("linux"):
            self.skipped.append(f"full disk of {victim}: a small disk can be mounted by root on Linux only")
            return
        server = self._ground.postgres if victim == "postgres" else self._node(victim)
        folder = self._data(victim)
        await asyncio.to_thread(server.stop)
        mounted = await asyncio.to_thread(_small_disk, folder)
        if mounted:
            self._ground.mounted(folder)
        await asyncio.to_thread(server.start)
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
        await asyncio.to_thread(server.start)

    async def _start_if_it_died(self, victim: str) -> None:
        """A server that gave up when its disk was full is started again, as whoever made room would."""
        server = self._ground.postgres if victim == "postgres" else self._node(victim)
        await asyncio.sleep(1)
        if server.child is None or not server.child.alive:
            await asyncio.to_thread(server.start)

    def _move_back(self, folder: Path) -> None:
        aside = folder.with_name(folder.name + ".aside")
        _copy(str(folder), aside)
        self._ground.unmount(folder)
        folder.rmdir()
        aside.rename(folder)

    def _data(self, victim: str) -> Path:
        if victim == "postgres":
            return self._ground.postgres.folder / "data"
        return self._ground.kafka.folder / f"data-{self._node(victim).number}"

    def _node(self, victim: str) -> KafkaNode:
        return self._ground.kafka.nodes[int(victim.rpartition("-")[2]) - 1]


def draw(seed: int, only: Collection[str] = ()) -> Iterator[Planned]:
    """An endless schedule, of all faults or of some."""
    rng = random.Random(f"faults-{seed}")
    bag: list[str] = []
    while True:
        if not bag:
            bag = [name for name, (weight, _) in _KINDS.items() for _ in range(weight) if not only or name in only]
            rng.shuffle(bag)
        yield _draw(rng, bag.pop())


def short() -> list[Planned]:
    """The most telling faults, in the fewest seconds: each catches what the others do not."""
    return [
        Planned("blind and kill", "intake", 3.0, 6.0),
        Planned("poison", "", 0.0, 2.0),
        Planned("pause postgres and kill", "decision-eu,decision-us,audit-eu", 2.5, 2.0),
        Planned("kill leader of", "piepowder.submissions.eu", 3.0, 2.0),
        Planned("kill postgres", "", 1.0, 2.0),
        Planned("pause", "router", 3.0, 1.0),
    ]


def parse(text: str) -> Planned:
    """A fault that was printed."""
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
    postgres = [f"{name}>postgres" for name in (*SERVICES, "") if name not in ("router", "intake-projection")]
    clients = [f"client>{name}" for name in ("intake", "decision-eu", "decision-us")]
    brokers = [f"broker-{follower}>peer-{leader}" for follower, leader in itertools.permutations((1, 2, 3), 2)]
    return rng.choice([*kafka, *postgres, *clients, *brokers, "intake>router"]), rng.choice((2.0, 6.0, 15.0))


def _one_service(seconds: float) -> Callable[[random.Random], tuple[str, float]]:
    return lambda rng: (rng.choice(("router", "decision-eu", "decision-us", "audit-eu", "intake-projection")), seconds)


def _nothing(seconds: float) -> Callable[[random.Random], tuple[str, float]]:
    return lambda rng: ("", rng.uniform(0.5, 1.5) * seconds)


def _jump(rng: random.Random) -> tuple[str, float]:
    return f"{rng.choice(SERVICES)} by {rng.choice((-7200, -30, 30, 7200, 86400))} s", 10.0


def _two(rng: random.Random) -> tuple[str, float]:
    apart = (("kill", "pause"), ("kill leader of", "pause leader of"), ("kill postgres", "pause postgres"))
    links = ("slow", "cut", "half-open")
    families = rng.sample([*apart, links], 2)
    planned = [_draw(rng, rng.choice(family)) for family in families]
    return " + ".join(map(str, planned)), max(one.seconds for one in planned)


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
    "blind and kill": (1, lambda rng: (rng.choice(("intake", "router")), 3.0)),
    "pause postgres and kill": (1, lambda _: ("decision-eu,decision-us,audit-eu,audit-us,intake", 3.0)),
    "clock of": (2, _jump),
    "poison": (1, _nothing(0.0)),
    "replicas of": (1, _one_service(12.0)),
    "zombie of": (1, _one_service(20.0)),
    "rolling restart": (1, _nothing(0.0)),
    "reset": (1, _nothing(0.0)),
    "full disk of": (1, lambda rng: (rng.choice(("postgres", "kafka-1", "kafka-2", "kafka-3")), 5.0)),
    "two at once": (3, _two),
}


def _small_disk(folder: Path) -> bool:
    """Put a small disk under a folder's content; False when that is not allowed here."""
    size = _ROOM + sum(path.stat().st_blocks * 512 for path in (folder, *folder.rglob("*")))
    aside = folder.with_name(folder.name + ".aside")
    folder.rename(aside)
    folder.mkdir()
    shutil.copystat(aside, folder)
    os.chown(folder, aside.stat().st_uid, aside.stat().st_gid)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "chaos", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        folder.rmdir()
        aside.rename(folder)
        return False
    _copy(f"{aside}/.", folder)
    shutil.rmtree(aside)
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
