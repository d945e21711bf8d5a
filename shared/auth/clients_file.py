"""The clients file: the first administrator's key, for a new system, and for access while no client can be created."""

from pathlib import Path

import msgspec

from shared.auth import clients
from shared.auth.clients import ANY
from shared.auth.principal import Principal
from shared.contracts.events import RateLimit
from shared.runtime.clock import from_text_or_none
from shared.runtime.errors import Fatal
from shared.runtime.user_errors import cause


class ClientEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One client of the file, with one key."""

    name: str
    key_sha256: str
    scopes: frozenset[str]
    regions: frozenset[str] = frozenset({ANY})
    expires_at: str = ""
    limit: RateLimit | None = None
    platforms: frozenset[str] = frozenset({ANY})

    @property
    def principal(self) -> Principal:
        return Principal(self.name, self.scopes, self.regions, self.platforms)


def read_clients_file(path: Path | None) -> list[ClientEntry]:
    """The clients in a JSON file, none without a path; raises Fatal for an unreadable or invalid file."""
    if path is None:
        return []
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[ClientEntry])
    except (OSError, msgspec.DecodeError) as error:
        raise Fatal(f"PIEPOWDER_CLIENTS_FILE: {path} cannot be read: {cause(error)}.") from error
    for client in found:
        if faults := _faults(client):
            raise Fatal(f"{path}: client {client.name!r}: {faults[0]}.")
    return found


def _faults(client: ClientEntry) -> list[str]:
    found = []
    if not clients.is_sha256(client.key_sha256):
        found.append("key_sha256 is not a SHA-256")
    if client.expires_at and not from_text_or_none(client.expires_at):
        found.append("expires_at is not a time")
    given = [*map(clients.platform_fault, client.platforms), clients.too_wide(client.scopes, client.platforms)]
    return found + [fault for fault in given if fault is not None] + clients.limit_faults(client.limit)
