"""Kafka and PostgreSQL together: started at the same time, stopped within a bound after any failure, with a lock
against a second start in the same folder. PIEPOWDER_KAFKA and PIEPOWDER_DATABASE_URL name servers that run already;
the stack only checks that they respond."""

import os
import queue
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.files import FolderLock, make_private, write_whole
from deploy.local.jars import Report
from deploy.local.kafka import LocalKafka
from deploy.local.kafka_probe import a_broker_responds
from deploy.local.postgres import LocalPostgres, responds
from deploy.local.process import Child, LocalServer, Startable, stop_all
from deploy.local.server_watch import ServerWatch
from shared.runtime.private_files import make_private_folder
from shared.runtime.user_errors import UserError, file_errors

_NEEDED = 256 * 2**20
_STOP_SECONDS = 15.0
# The folder may also have files of other programs.
_OWN_NAMES = ("kafka", "postgres", "logs", "sample", "submitted", "lock", "ports.json")


class LocalStack(Startable):
    """Both servers, with their data in `folder`; `kafka` and `database_url` are their addresses after the start."""

    def __init__(self, folder: Path = Path(".piepowder"), *, nodes: int = 1, report: Report = print) -> None:
        self.folder = folder.absolute()
        self.kafka = ""
        self.database_url = ""
        self.local_kafka: LocalKafka | None = None
        self.local_postgres: LocalPostgres | None = None
        self._nodes = nodes
        self._report = report
        self._lock = FolderLock(self.folder / "lock")
        self._starters: list[threading.Thread] = []
        self._watch = ServerWatch((), report)

    def start(self) -> None:
        """Start the servers that the environment does not name, and wait until all respond.

        Raises `UserError` for an expected failure; then, and when interrupted, everything is stopped.
        """
        external_kafka = os.environ.get("PIEPOWDER_KAFKA", "")
        external_url = os.environ.get("PIEPOWDER_DATABASE_URL", "")
        self.local_kafka = self.local_postgres = None
        if not (external_kafka and external_url):
            with file_errors(self.folder):
                make_private_folder(self.folder)
                write_whole(self.folder / ".gitignore", "*\n")  # the folder holds keys and personal data
                self._lock.acquire()
                self._make_private()
        try:
            if not external_kafka:
                self.local_kafka = LocalKafka(self.folder / "kafka", nodes=self._nodes, report=self._report)
            if not external_url:
                self.local_postgres = LocalPostgres(self.folder / "postgres", report=self._report)
            if self._servers():
                self._check_space()
            self._run_in_parallel(partial(self._use_kafka, external_kafka), partial(self._use_database, external_url))
            self._watch = ServerWatch(self._servers(), self._report)
            self._watch.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the started servers, also during a start, within about 30 seconds."""
        self._watch.cancel()
        for server in self._servers():
            server.cancel()
        stop_all(self.children(), _STOP_SECONDS)
        self._watch.stop(_STOP_SECONDS)
        for starter in self._starters:
            starter.join(_STOP_SECONDS)
        stop_all(self.children(), _STOP_SECONDS)
        self._starters = []
        self._lock.release()

    def children(self) -> list[Child]:
        return [child for server in self._servers() for child in server.children]

    def failures(self) -> list[UserError]:
        """A sentence for each server that ended or hung, and was given up."""
        return list(self._watch.failures)

    @property
    def silent(self) -> set[str]:
        """The names of the children that do not answer, or are being started again."""
        return self._watch.silent

    def _servers(self) -> list[LocalServer]:
        return [server for server in (self.local_kafka, self.local_postgres) if server is not None]

    def _use_kafka(self, bootstrap: str) -> None:
        if self.local_kafka is not None:
            self.kafka = self.local_kafka.start()
            return
        if a_broker_responds(bootstrap, timeout=5.0):
            self.kafka = bootstrap
            return
        raise UserError(
            f"No Kafka responds at {bootstrap}, which PIEPOWDER_KAFKA names.",
            "Start it, or unset PIEPOWDER_KAFKA to have one started here.",
        )

    def _use_database(self, url: str) -> None:
        if self.local_postgres is not None:
            self.database_url = self.local_postgres.start()
            return
        scheme, _, rest = url.partition("://")
        if not responds(f"{scheme.partition('+')[0]}://{rest}", timeout=5.0):
            where = urlsplit(url)
            raise UserError(
                f"No PostgreSQL responds at {where.hostname}:{where.port or 5432}, which PIEPOWDER_DATABASE_URL names.",
                "Start it or correct its name and password, or unset the variable to have one started here.",
            )
        self.database_url = url

    def _make_private(self) -> None:
        """Take the rights of others from the files of a stack that an earlier version created."""
        for name in _OWN_NAMES:
            if (self.folder / name).exists():
                make_private(self.folder / name)

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < _NEEDED:
            raise UserError(
                f"The disk that holds {self.folder} has {free // 2**20} MB free, and {_NEEDED // 2**20} are needed.",
                "Free some space there, or choose a folder on another disk.",
            )

    def _run_in_parallel(self, *jobs: Callable[[], None]) -> None:
        ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def guarded(job: Callable[[], None]) -> None:
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - raised again by the waiting thread
                ends.put(error)
            else:
                ends.put(None)

        self._starters = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
        for starter in self._starters:
            starter.start()
        for _ in jobs:
            if (error := ends.get()) is not None:
                raise error
