"""Fixtures of all tests: Kafka and PostgreSQL, an empty database, a region with its topics."""

import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from deploy.local import ports
from deploy.local.kafka import LocalKafka
from shared.contracts import topics
from shared.kafka import topic_admin
from tests.support.scheduling import ModuleScheduling
from tests.support.servers import Servers, SharedServers, ask

# A busy machine makes examples slow, which is not a failure.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Brokers in tests run for minutes: with this compiler and this collector they need half of the processor time.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

_SHARED = pytest.StashKey[SharedServers]()


def pytest_configure(config: pytest.Config) -> None:
    """Let the controlling process own the servers, and give each worker process its own loopback ports."""
    if (given := getattr(config, "workerinput", None)) is not None:
        ports._RANGE = ports._RANGE[int(given["workerid"].removeprefix("gw")) :: given["workercount"]]
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the servers, like Ctrl-C
        config.stash[_SHARED] = SharedServers()
        config.add_cleanup(config.stash[_SHARED].close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker process the socket from which it gets the servers."""
    node.workerinput["servers"] = node.config.stash[_SHARED].socket


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ModuleScheduling:
    """Distribute modules, not single tests, to the worker processes."""
    return ModuleScheduling(config, log)


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """One Kafka and one PostgreSQL for the whole run."""
    if (given := getattr(pytestconfig, "workerinput", None)) is not None:
        return ask(given["servers"])
    return pytestconfig.stash[_SHARED].get()


@pytest.fixture(scope="session")
def kafka(servers: Servers) -> str:
    """Bootstrap servers."""
    return servers.kafka


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A Kafka for one module, whose tests stop or freeze it."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as own:
        yield own


@pytest.fixture
async def database_url(servers: Servers) -> AsyncIterator[str]:
    """An empty database for one test."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    url = f"{servers.database_url.rpartition('/')[0]}/{name}"
    admin = await asyncpg.connect(servers.database_url)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield url
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def region(kafka: str) -> str:
    """A region for one test, with its topics."""
    name = f"t{os.getpid()}-{next(_numbers)}"
    report = await topic_admin.ensure(kafka, topic_admin.expand(topic_admin.load(), [name]))
    assert topics.submissions(name) in report.created
    return name


_numbers = itertools.count(1)


def project_root() -> Path:
    """The root folder of the checkout."""
    return Path(__file__).parents[1]
