"""The list of services, and of the processes that run them.

The local stack, the tests of Compose and of the alerts, and the accounting read this list. Tests compare it with the
folders of `services/` and with `deploy/kafka/topics.yaml`, so that a forgotten place fails `make check`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A service: the package `services.<name>`. `regional`: one deployment for each region. `database`: it has one, for
    each region if it is regional. `writes`: its topics, without `piepowder.` and region (every service writes
    `EVERY_SERVICE_WRITES` too). `calls`: the services whose REST it calls. `processes`: the variables of each of its
    processes, without `PIEPOWDER_`, if it has more than one."""

    name: str
    regional: bool = False
    database: bool = False
    writes: Sequence[str] = ()
    calls: Sequence[str] = ()
    processes: Mapping[str, Mapping[str, str]] = {}


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process of a service; `region` and `database` (without its prefix) are empty if it has none."""

    name: str
    service: ServiceSpec
    region: str
    database: str
    variables: Mapping[str, str]

    @property
    def module(self) -> str:
        return f"services.{self.service.name}"


SERVICES: Final = (  # in the order of a stop: each can finish what the services before it have sent
    ServiceSpec(
        name="intake",
        database=True,
        writes=("submissions", "requests", "control"),
        calls=("router",),
        processes={"intake": {"PROJECTION": "false"}, "intake-projection": {}},
    ),
    ServiceSpec(name="router", writes=("cases", "control")),
    ServiceSpec(name="decision", regional=True, database=True, writes=("decisions",)),
    ServiceSpec(name="audit", regional=True, database=True),
)
EVERY_SERVICE_WRITES: Final = ("access", "deadletters", "parked")


def processes(regions: Sequence[str]) -> list[ProcessSpec]:
    """The processes of all services in these regions."""
    return [process for service in SERVICES for process in _processes(service, regions)]


def _processes(service: ServiceSpec, regions: Sequence[str]) -> Iterator[ProcessSpec]:
    if service.regional:
        variants = [(f"{service.name}-{region}", region, {"REGION": region}) for region in regions]
    else:
        every = {"REGIONS": ",".join(regions)}
        variants = [(name, "", every | dict(own)) for name, own in (service.processes or {service.name: {}}).items()]
    for name, region, variables in variants:
        database = f"{service.name}_{region}".rstrip("_").replace("-", "_") if service.database else ""
        yield ProcessSpec(name=name, service=service, region=region, database=database, variables=variables)
