"""Real Kafka and PostgreSQL for the tests that want them, from whatever this machine has.

`PIEPOWDER_KAFKA` and `PIEPOWDER_DATABASE_URL` name servers that run already; else Docker, where it answers, through
testcontainers; else local processes. Every path hands out the same kind of address.
"""

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import asyncpg
import docker
import pytest
import requests
from docker.errors import DockerException
from hypothesis import HealthCheck, settings
from testcontainers.community.kafka import KafkaContainer
from testcontainers.community.postgres import PostgresContainer

from deploy.local.stack import LocalStack
from shared.contracts import topics
from shared.kafka import topic_admin

# a busy machine makes examples slow; that is no failure
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

_KAFKA_IMAGE = "apache/kafka:4.3.1"
_POSTGRES_IMAGE = "postgres:18-alpine"


class Servers(NamedTuple):
    """`kafka` is `host:port[,host:port...]`; `database_url` is `postgresql://user:password@host:port/database`."""

    kafka: str
    database_url: str


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One Kafka and one PostgreSQL for the whole run."""
    with ExitStack() as stack:
        if _docker_answers() and not {"PIEPOWDER_KAFKA", "PIEPOWDER_DATABASE_URL"} & os.environ.keys():
            yield _from_docker(stack)
        else:
            local = stack.enter_context(LocalStack(tmp_path_factory.mktemp("stack"), report=print))
            yield Servers(local.kafka, local.database_url)


@pytest.fixture(scope="session")
def kafka(servers: Servers) -> str:
    """Bootstrap servers."""
    return servers.kafka


@pytest.fixture
async def database_url(servers: Servers) -> AsyncIterator[str]:
    """An empty database of the test's own."""
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
    """A region of the test's own, with its topics."""
    name = f"t{os.getpid()}-{next(_numbers)}"
    report = await topic_admin.ensure(kafka, topic_admin.expand(topic_admin.load(), [name]))
    assert topics.submissions(name) in report.created
    return name


_numbers = itertools.count(1)


def _docker_answers() -> bool:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).exists():
        return False
    try:
        client = docker.from_env(timeout=2)
    except (DockerException, requests.RequestException):
        return False
    client.close()
    return True


def _from_docker(stack: ExitStack) -> Servers:
    broker = stack.enter_context(KafkaContainer(_KAFKA_IMAGE).with_kraft())
    postgres = stack.enter_context(PostgresContainer(_POSTGRES_IMAGE, driver=None))
    return Servers(broker.get_bootstrap_server(), postgres.get_connection_url())


def project_root() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]
