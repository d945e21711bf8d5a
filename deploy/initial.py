"""What every system of ours needs once, however it is started: an API key for whoever starts it, and rules in force.

Both may be done again at any time and leave what is there: a key that was handed out keeps working, and what somebody
put into force is not replaced by the sample.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from deploy.local.errors import StackError
from deploy.local.files import write_whole
from shared.auth.clients import SCOPES
from shared.auth.clients_file import ClientEntry
from shared.contracts import ids
from shared.runtime.errors import Transient

CONTROL: Final = Path(__file__).parent / "local" / "control"
INTAKES_SCOPES: Final = frozenset({"control:read"})  # it asks the router to check what business requests attach


def keep_key(key_file: Path, clients_file: Path, name: str, scopes: frozenset[str] = SCOPES) -> str:
    """The API key of the client `name`, with `scopes` in all regions: made once, kept in `key_file` (0600).

    `clients_file` holds its hash alone, and keeps the other clients that stand there. Raises `StackError` when it
    cannot be read.
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
            raise StackError(f"{clients_file} is not readable ({error}).", "Mend or remove it.") from error
    mine = ClientEntry(name, ids.hash_api_key(key), scopes)
    clients = [mine, *(client for client in others if client.name != name)]
    text = msgspec.json.format(msgspec.json.encode(clients, order="deterministic"), indent=2).decode()
    write_whole(clients_file, text + "\n", mode=0o600)
    return key


def put_sample_into_force(
    router: httpx.Client, *, folder: Path = CONTROL, regions: Sequence[str] | None = None
) -> list[str]:
    """Publish the sample's operating model and policies where nothing is in force; the names of what was published.

    Of the operating model only `regions`, if they are given. `router` has the router's base URL and a key. Raises
    Transient while the router is not ready, after which the same call is right, and `StackError` when it refuses.
    """
    in_force = _call(router, "GET", None)
    wanted = {
        name: msgspec.yaml.decode((folder / file).read_bytes(), type=dict[str, Any])
        for name, file in (("operating_model", "operating-model.yaml"), ("policy_set", "policies.yaml"))
        if in_force.get(name) is None
    }
    if regions is not None and "operating_model" in wanted:
        model = wanted["operating_model"]
        model["regions"] = [region for region in model["regions"] if region["id"] in regions]
    if wanted:
        _call(router, "POST", wanted)
    return list(wanted)


def _call(router: httpx.Client, method: str, body: object) -> dict[str, Any]:
    try:
        answer = router.request(method, "/v1/control", json=body)
    except httpx.TransportError as error:
        raise Transient(f"The router at {router.base_url} does not answer: {error!r}") from error
    if answer.status_code in (429, 502, 503, 504):
        raise Transient(f"The router at {router.base_url} is not ready: {answer.text}")
    if answer.is_error:
        raise StackError(f"The router refused the call with status {answer.status_code}.", answer.text)
    result: dict[str, Any] = answer.json()
    return result
