"""The REST application of each service, built without Kafka and databases, for tests that read or call them."""

import importlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from deploy import services
from shared.auth.clients import SCOPES
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from shared.contracts.events import RateLimit
from shared.http import server
from shared.kafka.control import ControlReader
from shared.runtime.readiness import Readiness
from shared.runtime.settings import CommonSettings
from tests.support.router_samples import on_control, operating_model, policies, region

SERVICES = tuple(sorted(service.name for service in services.SERVICES))
METHODS = ("get", "put", "post", "delete", "patch")
NOBODY, ELSEWHERE, ALL, OFTEN = (ids.new_api_key("test") for _ in range(4))


class Operation(NamedTuple):
    """A route: its method, its path with example values, and its operation object in the document."""

    method: str
    path: str
    documented: dict[str, Any]
    allowed: frozenset[str]

    @property
    def body_type(self) -> str | None:
        return next(iter(self.documented.get("requestBody", {}).get("content", {})), None)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Served(NamedTuple):
    """A service's calls, and its document."""

    name: str
    calls: httpx.AsyncClient
    document: dict[str, Any]

    def operations(self) -> Iterator[Operation]:
        for template, item in self.document["paths"].items():
            allowed = frozenset(method.upper() for method in METHODS if method in item)
            for method in METHODS:
                if (documented := item.get(method)) is not None:
                    yield Operation(method.upper(), filled(template, documented), documented, allowed)


def filled(template: str, documented: dict[str, Any]) -> str:
    return re.sub(r"{(\w+)(:\w+)?}", lambda found: value_of(documented, found[1]), template)


def value_of(documented: dict[str, Any], name: str) -> str:
    parameter = next(parameter for parameter in documented["parameters"] if parameter["name"] == name)
    schema = parameter["schema"]
    found = [parameter.get("example"), *schema.get("examples", []), *(parameter.get("examples") or [])]
    if schema.get("format") == "uuid":
        found.append("0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de")
    return str(next((value for value in found if isinstance(value, str)), "x"))


@asynccontextmanager
async def serving(service: str, folder: Path, *, in_force: bool) -> AsyncIterator[Served]:
    """The service from its composition root, without its loops; with `in_force`, it has read an operating model and
    policies from the control topic."""
    clients = [
        ClientEntry("nobody", ids.hash_api_key(NOBODY), frozenset()),
        ClientEntry("elsewhere", ids.hash_api_key(ELSEWHERE), SCOPES, frozenset({"mars"})),
        ClientEntry("all", ids.hash_api_key(ALL), SCOPES),
        ClientEntry("often", ids.hash_api_key(OFTEN), SCOPES, limit=RateLimit(requests_per_second=0.001, burst=1)),
    ]
    clients_file = folder / "clients.json"
    clients_file.write_bytes(msgspec.json.encode(clients))
    kind: type[CommonSettings] = importlib.import_module(f"services.{service}.settings").Settings
    given = {"region": "eu", "regions": ["eu", "us"], "database_url": "postgresql://x:x@127.0.0.1:9/x"}
    known = {name: value for name, value in given.items() if name in kind.model_fields}
    captured: list[Any] = []

    async def capture(app: Any, _: object, loops: Sequence[Any], readiness: Readiness) -> bool:
        captured.append(app)
        for reader in (getattr(loop, "__self__", None) for loop in loops):
            if in_force and isinstance(reader, ControlReader):
                reader.apply(on_control(operating_model(region(), region("us", ["US"]))))
                reader.apply(on_control(policies()))
                reader.caught_up()
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "serve", capture)
        settings = kind.model_validate({"kafka": "127.0.0.1:9", "clients_file": clients_file, **known})
        await importlib.import_module(f"services.{service}.app").run(settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(captured[0]), base_url="http://service") as calls:
        yield Served(service, calls, (await calls.get("/openapi.json")).json())
