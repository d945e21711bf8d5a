"""The first steps of every system, local or in containers: the administrator's API key, and the sample's rules.

Both steps may be repeated at any time: an existing key stays valid, and the sample does not replace published rules.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from deploy.local.files import write_whole
from piepowder.client import problem_text
from shared.auth.clients import SCOPES
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from shared.runtime.errors import Transient
from shared.runtime.user_errors import UserError, cause, sentence

CONTROL: Final = Path(__file__).parent / "local" / "control"


def ensure_key(key_file: Path, clients_file: Path, name: str, scopes: frozenset[str] = SCOPES) -> str:
    """The API key of the client `name`, with `scopes` in all regions: created once, stored in `key_file` (0600).

    `clients_file` gets its hash only, and keeps its other clients. Raises `UserError` when it cannot be read.
    """
    key = key_file.read_text(encoding="utf-8").strip() if key_file.exists() else ""
    if not ids.is_well_formed_api_key(key):
        key = ids.new_api_key(name)
        write_whole(key_file, key + "\n", mode=0o600)
    others: list[ClientEntry] = []
    if clients_file.exists():
        try:
            others = msgspec.json.decode(clients_file.read_bytes(), type=list[ClientEntry])
        except msgspec.DecodeError as error:
            raise UserError(f"{clients_file} is not readable ({error}).", "Repair or remove it.") from error
    mine = ClientEntry(name, ids.hash_api_key(key), scopes)
    clients = [mine, *(client for client in others if client.name != name)]
    text = msgspec.json.format(msgspec.json.encode(clients, order="deterministic"), indent=2).decode()
    write_whole(clients_file, text + "\n", mode=0o600)
    return key


def publish_sample(router: httpx.Client, *, folder: Path = CONTROL, regions: Sequence[str] | None = None) -> list[str]:
    """Publish the sample's operating model and policies, unless others are in force; returns the published parts.

    `regions` limits the operating model. `router` has the router's base URL and a key. Raises Transient while the
    router is not ready; then repeat the call. Raises `UserError` when the router refuses the call.
    """
    in_force = _call(router, "GET", None)
    missing = {
        name: msgspec.yaml.decode((folder / file).read_bytes(), type=dict[str, Any])
        for name, file in (("operating_model", "operating-model.yaml"), ("policy_set", "policies.yaml"))
        if in_force.get(name) is None
    }
    if regions is not None and "operating_model" in missing:
        model = missing["operating_model"]
        model["regions"] = [region for region in model["regions"] if region["id"] in regions]
    if missing:
        _call(router, "POST", missing)
    return list(missing)


def _call(router: httpx.Client, method: str, body: object) -> dict[str, Any]:
    try:
        response = router.request(method, "/v1/control", json=body)
    except httpx.TransportError as error:
        raise Transient(f"The router at {router.base_url} does not respond: {cause(error)}.") from error
    if response.status_code in (429, 502, 503, 504):
        raise Transient(sentence(f"The router at {router.base_url} is not ready: {_detail(response)}"))
    if response.is_error:
        raise UserError(f"The router refused the call with status {response.status_code}.", _detail(response))
    result: dict[str, Any] = response.json()
    return result


def _detail(response: httpx.Response) -> str:
    """The problem's text, without its JSON."""
    try:
        problem = response.json()
    except ValueError:
        return "its response has no JSON"
    return problem_text(problem) if isinstance(problem, dict) else "its response has no problem"
