"""Real Kafka and PostgreSQL for the tests, one of each per run.

`PIEPOWDER_KAFKA` and `PIEPOWDER_DATABASE_URL` name running servers. Otherwise the servers run in Docker, through
testcontainers, or, without Docker, as local processes. The addresses have the same form in each case.

When several worker processes run the tests, the process that controls them owns the servers: it starts them when the
first worker requests the addresses over a Unix socket, and stops them when the run ends for any reason.
"""

import os
import socket
import socketserver
import threading
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import docker
import msgspec
import requests
from docker.errors import DockerException
from testcontainers.community.kafka import KafkaContainer
from testcontainers.community.postgres import PostgresContainer

from deploy.local.stack import LocalStack

KAFKA_IMAGE: Final = "apache/kafka:4.3.1"
POSTGRES_IMAGE: Final = "postgres:18-alpine"


class Servers(NamedTuple):
    """`kafka` is `host:port[,host:port...]`; `database_url` is `postgresql://user:password@host:port/database`."""

    kafka: str
    database_url: str


class _Reply(msgspec.Struct):
    servers: Servers | None = None
    error: str = ""


class SharedServers:
    """Starts Kafka and PostgreSQL at the first `get`; `close` stops them. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = ExitStack()
        self._stack: LocalStack | None = None
        self._reply: _Reply | None = None

    def get(self) -> Servers:
        """The addresses; raises RuntimeError when the servers do not start."""
        return _servers(self.reply())

    @cached_property
    def socket(self) -> str:
        """Path of a Unix socket from which `ask`, in another process, reads the addresses until `close`."""
        folder = self._running.enter_context(TemporaryDirectory(prefix="piepowder-test-"))
        server = _Server(f"{folder}/socket", self)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="shared servers")
        thread.start()
        self._running.callback(thread.join)
        self._running.enter_context(server)
        self._running.callback(server.shutdown)
        return f"{folder}/socket"

    def close(self) -> None:
        """Stop the servers, also in the middle of their start, and remove their data."""
        if self._stack is not None:
            self._stack.stop()
        with self._lock:
            self._reply = _Reply(error="The test run has ended.")
        self._running.close()

    def reply(self) -> "_Reply":
        """The addresses, or the reason of a failed start. The first call starts the servers."""
        with self._lock:
            if self._reply is None:
                try:
                    self._reply = _Reply(self._start())
                except Exception as error:  # noqa: BLE001 - every test that needs the servers reports it
                    self._reply = _Reply(error=str(error))
            return self._reply

    def _start(self) -> Servers:
        if _docker_responds() and not {"PIEPOWDER_KAFKA", "PIEPOWDER_DATABASE_URL"} & os.environ.keys():
            kafka = self._running.enter_context(KafkaContainer(KAFKA_IMAGE).with_kraft())
            postgres = self._running.enter_context(PostgresContainer(POSTGRES_IMAGE, driver=None))
            return Servers(kafka.get_bootstrap_server(), postgres.get_connection_url())
        folder = self._running.enter_context(TemporaryDirectory(prefix="piepowder-test-"))
        self._stack = LocalStack(Path(folder), report=print)
        self._running.enter_context(self._stack)
        return Servers(self._stack.kafka, self._stack.database_url)


def ask(path: str) -> Servers:
    """The addresses, from the process that controls this worker; raises RuntimeError when the servers do not start."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rb") as reply:
            return _servers(msgspec.json.decode(reply.read(), type=_Reply))


def _servers(reply: _Reply) -> Servers:
    if reply.servers is None:
        raise RuntimeError(f"Kafka and PostgreSQL are not available: {reply.error}")
    return reply.servers


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, shared: SharedServers) -> None:
        super().__init__(path, _Handler)
        self.shared = shared


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.wfile.write(msgspec.json.encode(self.server.shared.reply()))


def _docker_responds() -> bool:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).exists():
        return False
    try:
        client = docker.from_env(timeout=2)
    except (DockerException, requests.RequestException):
        return False
    client.close()
    return True
