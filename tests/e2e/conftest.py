"""The whole system as its users see it: each service is a process, and each test module has its own regions."""

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import msgspec
import pytest

from deploy.initial import CONTROL
from deploy.local.system import System
from deploy.services import ServiceSpec
from shared.contracts import events, ids, topics
from shared.contracts.envelope import GLOBAL, Attributes, encode
from shared.contracts.policy_documents import published_form
from shared.kafka import topic_admin
from shared.kafka.producer import KafkaProducer, record
from shared.runtime.clock import SystemClock, to_text
from tests.support.servers import Servers

T = TypeVar("T")
_numbers = itertools.count(1)


class Cell(NamedTuple):
    """A running system and its two regions, which own the markets of the sample."""

    system: System
    eu: str
    us: str
    client: httpx.Client

    def url(self, service: str, region: str | None = None) -> str:
        return self.system.url(service, region)

    def url_of(self, service: ServiceSpec) -> str:
        """The base URL of a service, in the first region if it is regional."""
        return self.url(service.name, self.eu if service.regional else None)


@pytest.fixture(scope="module")
async def control(servers: Servers) -> tuple[str, str]:
    """Two regions with the published markets, queues and policies of the sample."""
    number = next(_numbers)
    names = {"eu": f"e{os.getpid()}-{number}-eu", "us": f"e{os.getpid()}-{number}-us"}
    await topic_admin.ensure(servers.kafka, topic_admin.expand(topic_admin.load(), list(names.values())))
    model = _read("operating-model.yaml", dict[str, Any])
    regions = msgspec.convert(
        [region | {"id": names[region["id"]]} for region in model["regions"]], list[events.Region]
    )
    policies = _read("policies.yaml", dict[str, Any])
    newest = 1_000 * number  # larger than all numbers that earlier tests deployed
    published = {"number": newest, "published_by": "test"}
    entities = [
        (
            "operating-model",
            events.OPERATING_MODEL_PUBLISHED,
            events.OperatingModelPublished(id=f"om-1-{number}", regions=regions, number=newest, published_by="test"),
        ),
        (
            "policy-set",
            events.POLICY_SET_PUBLISHED,
            msgspec.convert(
                {"id": f"ps-1-{number}", **published, **published_form(policies)}, events.PolicySetPublished
            ),
        ),
    ]
    producer = KafkaProducer(servers.kafka, client_id="test")
    for entity, kind, data in entities:
        event_id = ids.event_id(f"{entity}-{os.getpid()}-{number}", kind)
        attributes = Attributes(
            event_id, kind, "test", to_text(SystemClock().now()), entity, GLOBAL, correlation_id=event_id
        )
        await producer.send([record(topics.CONTROL, encode(attributes, data))])
    await producer.stop()
    return names["eu"], names["us"]


@pytest.fixture(scope="module")
def cell(servers: Servers, control: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """The services of two regions, running."""
    folder = tmp_path_factory.mktemp("system")
    prefix = f"e2e_{os.getpid()}_{random.Random(control[0]).randrange(10**6)}"
    system = System(servers, control, folder, control=None, databases=prefix, report=print)
    with system, httpx.Client(headers={"Authorization": f"Bearer {system.key()}"}, timeout=30) as client:
        _logs[folder / "logs"] = None
        yield Cell(system, *control, client)
    _logs.pop(folder / "logs")


_logs: dict[Path, None] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test shows the last lines of the services' logs."""
    report = yield
    if report.failed:
        for folder in _logs:
            for log in sorted(folder.glob("*.log")):
                report.sections.append((f"the last lines of {log.name}", "\n".join(log.read_text().splitlines()[-25:])))
    return report


def _read(name: str, kind: type[T]) -> T:
    return msgspec.yaml.decode((CONTROL / name).read_bytes(), type=kind)
