"""What containers need done once: `python -m deploy.docker.jobs keys|control`, two jobs of docker-compose.yml.

Each may run again at any time and leaves what is there: a key that was handed out keeps working, and what somebody put
into force is not replaced by the sample. `control` waits for the router, for a bounded time, because Compose does not
try a job again.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import msgspec

from deploy.local.errors import StackError
from deploy.local.files import write_whole
from deploy.local.system import CONTROL, SCOPES
from shared import ids
from shared.auth import Client
from shared.clock import SystemClock
from shared.errors import Transient
from shared.retry import Backoff

_PATIENCE: Final = 120.0
_PACE: Final = Backoff(first=0.2, longest=3.0)
_clock = SystemClock()
T = TypeVar("T")


def keep_key(key_file: Path, clients_file: Path) -> str:
    """Make an API key with all scopes, unless `key_file` holds one, and see that `clients_file` knows its hash."""
    key = key_file.read_text(encoding="utf-8").strip() if key_file.exists() else ""
    if not ids.is_well_formed_api_key(key):
        key = ids.new_api_key("compose")
        write_whole(key_file, key + "\n", mode=0o600)
    known = msgspec.json.decode(clients_file.read_bytes(), type=list[Client]) if clients_file.exists() else []
    mine = Client("compose", ids.hash_api_key(key), SCOPES)
    clients = [mine, *(client for client in known if client.name != mine.name)]
    write_whole(clients_file, msgspec.json.encode(clients, order="deterministic").decode() + "\n", mode=0o600)
    return key


async def put_sample_into_force(
    router: str, key: str, folder: Path = CONTROL, transport: httpx.AsyncBaseTransport | None = None
) -> list[str]:
    """Publish the sample's operating model and policies where nothing is in force; the names of what was published."""
    sample = {
        "operating_model": msgspec.yaml.decode((folder / "operating-model.yaml").read_bytes()),
        "policy_set": msgspec.yaml.decode((folder / "policies.yaml").read_bytes()),
    }
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=router, headers=headers, timeout=30, trust_env=False, transport=transport
    ) as http:
        in_force = await _patiently(lambda: _call(http, "GET", None))
        wanted = {name: content for name, content in sample.items() if in_force.get(name) is None}
        if wanted:
            await _patiently(lambda: _call(http, "POST", wanted))
    return list(wanted)


async def _call(http: httpx.AsyncClient, method: str, body: Any) -> dict[str, Any]:
    try:
        answer = await http.request(method, "/v1/control", json=body)
    except httpx.TransportError as error:
        raise Transient(f"The router at {http.base_url} does not answer: {error!r}") from error
    if answer.status_code in (429, 502, 503, 504):
        raise Transient(f"The router at {http.base_url} is not ready: {answer.text}")
    if answer.is_error:
        raise StackError(f"The router refused the call with status {answer.status_code}.", answer.text)
    result: dict[str, Any] = answer.json()
    return result


async def _patiently(act: Callable[[], Awaitable[T]]) -> T:
    deadline, attempt = _clock.monotonic() + _PATIENCE, 0
    while True:
        try:
            return await act()
        except Transient as error:
            attempt += 1
            if _clock.monotonic() > deadline:
                raise
            print(f"{error}; trying again", file=sys.stderr, flush=True)
            await asyncio.sleep(_PACE.delay(attempt))


def main(arguments: list[str]) -> int:
    """Do one job; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.docker.jobs", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    keys = jobs.add_parser("keys", help="make an API key, once")
    keys.add_argument("key_file", type=Path)
    keys.add_argument("clients_file", type=Path)
    control = jobs.add_parser("control", help="put the sample into force where nothing is")
    control.add_argument("router", help="base URL")
    control.add_argument("key_file", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.job == "keys":
            keep_key(given.key_file, given.clients_file)
            print(f"The API key is in {given.key_file}")
        else:
            key = given.key_file.read_text(encoding="utf-8").strip()
            published = asyncio.run(put_sample_into_force(given.router, key))
            print(f"Put into force: {', '.join(published) or 'nothing, both were'}")
    except (StackError, Transient, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
