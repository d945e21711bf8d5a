"""A TCP proxy that can make a network slow, cut or half-open, for one client or for all.

Half-open is the state after a peer has vanished: the connection to the server is gone, the connection to the client
stays open, and no data ever arrives. The proxy recognizes clients by their first message: a Kafka client by its client
id, a PostgreSQL client by its database. The proxy runs on its own thread, so that a busy test does not slow down the
system.
"""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable
from typing import Literal, NamedTuple

Kind = Literal["slow", "cut", "half-open"]
Naming = Callable[[bytes], str]

_CHUNK = 256 * 1024
_LOOK_SECONDS = 0.05
_SLOW_SECONDS = 0.15
_CLOSE_SECONDS = 2.0


class NetworkFault(NamedTuple):
    """A network fault between the clients whose names start with `who` and the proxies whose names start with
    `where`."""

    kind: Kind
    who: str
    where: str


class Proxies:
    """All proxies of a test and their current faults."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self.faults: list[NetworkFault] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close everything."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
        self._loop.close()

    def open(self, name: str, target: Callable[[], int], naming: Naming) -> int:
        """Open a proxy for the loopback port that `target` returns at each connection; return the proxy's own port."""

        async def listen() -> int:
            server = await asyncio.start_server(
                lambda reader, writer: self._serve(name, target, naming, reader, writer), "127.0.0.1", 0, limit=_CHUNK
            )
            self._servers.append(server)
            port: int = server.sockets[0].getsockname()[1]
            return port

        return asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)

    def begin(self, network_fault: NetworkFault) -> None:
        """Start a fault."""
        self._loop.call_soon_threadsafe(self._begin, network_fault)

    def end(self, network_fault: NetworkFault) -> None:
        """End a fault; half-open connections are closed."""
        self._loop.call_soon_threadsafe(self._end, network_fault)

    def between(self, link: "_Link") -> Kind | None:
        """The fault of a connection."""
        for network_fault in self.faults:
            if link.where.startswith(network_fault.where) and (
                not network_fault.who or link.who.startswith(network_fault.who)
            ):
                return network_fault.kind
        return None

    def _begin(self, network_fault: NetworkFault) -> None:
        self.faults.append(network_fault)
        for link in list(self._links):
            if self.between(link) == "cut":
                link.abort()
            elif self.between(link) == "half-open":
                link.forget_server()

    def _end(self, network_fault: NetworkFault) -> None:
        gone = [link for link in self._links if self.between(link) == "half-open"]
        self.faults.remove(network_fault)
        for link in gone:
            link.abort()

    async def _serve(
        self,
        name: str,
        target: Callable[[], int],
        naming: Naming,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        link = _Link(self, name, naming, reader, writer)
        self._links.add(link)
        try:
            await link.run(target)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            link.abort()
            self._links.discard(link)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for link in list(self._links):
            link.abort()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Link:
    def __init__(
        self, proxies: Proxies, where: str, naming: Naming, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.where = where
        self.who = ""
        self._proxies = proxies
        self._naming = naming
        self._client = reader, writer
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, target: Callable[[], int]) -> None:
        if self._proxies.between(self) == "cut":
            return
        server = self._server = await asyncio.open_connection("127.0.0.1", target(), limit=_CHUNK)
        pumps = [
            asyncio.ensure_future(self._pump(self._client[0], server[1], True)),
            asyncio.ensure_future(self._pump(server[0], self._client[1], False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for result in await asyncio.gather(*pumps, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, OSError):
                    raise result

    def forget_server(self) -> None:
        if self._server is not None:
            _abort(self._server[1])

    def abort(self) -> None:
        self.forget_server()
        _abort(self._client[1])

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, from_client: bool) -> None:
        while True:
            orderly = True
            try:
                data = await source.read(_CHUNK)
            except OSError:
                data, orderly = b"", False
            if from_client and not self.who:
                self.who = self._naming(data)
            kind = self._proxies.between(self)
            if kind == "cut":
                return
            if kind == "half-open":
                await self._swallow(source if from_client else None)
                return
            if kind == "slow":
                await asyncio.sleep(_SLOW_SECONDS)
            if not data:
                if orderly and not from_client:
                    await _close(sink)
                return
            with contextlib.suppress(OSError):
                sink.write(data)
                await sink.drain()

    async def _swallow(self, source: asyncio.StreamReader | None) -> None:
        self.forget_server()
        while self._proxies.between(self) == "half-open":
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    if source is None or not await source.read(_CHUNK):
                        source = None
                        await asyncio.sleep(1)
            except TimeoutError:
                continue
            except OSError:
                source = None


async def _close(writer: asyncio.StreamWriter) -> None:
    """Send what is buffered, and close the connection in order, as the server did."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            writer.close()
            await writer.wait_closed()


def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def kafka_client(first: bytes) -> str:
    """The client id in a connection's first request, without `piepowder-`."""
    if len(first) < 14:
        return ""
    (length,) = struct.unpack(">h", first[12:14])
    return first[14 : 14 + max(0, length)].decode(errors="replace").removeprefix("piepowder-")


def postgres_client(first: bytes) -> str:
    """The database in a connection's start-up message, without its prefix, as a service's name."""
    _, found, rest = first.partition(b"database\0")
    name = rest.partition(b"\0")[0].decode(errors="replace") if found else ""
    return name.partition("_")[2].replace("_", "-")


def web_client(_: bytes) -> str:
    """The name of each client of a service's REST API."""
    return "client"
