"""The list of services, and of the processes that run them.

The local stack, the account, the chaos runs, `docs/asyncapi.yaml` and the tests of REST, access, Compose and the alerts
read this list. `tests/architecture/test_services.py` compares it with the folders of `services/`, with their code and
with `deploy/kafka/topics.yaml`, and rejects other lists of services in the code.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A service: the package `services.<name>`.

    `regional`: one deployment for each region.
    `database`: it has a database, or one for each region if it is regional.
    `writes`, `reads`: its topics without `piepowder.` and region, beside `EVERY_SERVICE_WRITES` and
    `EVERY_SERVICE_READS`.
    `parks`: its consumers keep their parked keys in the topic `parked`.
    `calls`: the services whose REST API it calls. `scopes`: the scopes of its own API key for these calls.
    `processes`: the environment variables of each of its processes, without `PIEPOWDER_`, if it has more than one.
    """

    name: str
    regional: bool = False
    database: bool = False
    writes: Sequence[str] = ()
    reads: Sequence[str] = ()
    parks: bool = True
    calls: Sequence[str] = ()
    scopes: frozenset[str] = frozenset()
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


SERVICES: Final = (  # in the order of a stop: each can still handle the records of the services before it
    ServiceSpec(
        name="intake",
        database=True,
        writes=("submissions", "requests", "control"),
        reads=("submissions", "cases", "decisions", "deadletters", "access"),
        parks=False,
        calls=("router",),
        scopes=frozenset({"control:read"}),  # the router checks proposed changes
        processes={"intake": {"PROJECTION": "false"}, "intake-projection": {}},
    ),
    ServiceSpec(name="router", writes=("cases", "control"), reads=("submissions",)),
    ServiceSpec(name="decision", regional=True, database=True, writes=("decisions",), reads=("cases",)),
    ServiceSpec(
        name="audit",
        regional=True,
        database=True,
        reads=("submissions", "cases", "decisions", "requests", "access", "deadletters"),
    ),
)
CALLERS: Final = tuple(service for service in SERVICES if service.calls)
"""The services that need an API key of their own."""

EVERY_SERVICE_WRITES: Final = ("access", "deadletters")
EVERY_SERVICE_READS: Final = ("control",)


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
