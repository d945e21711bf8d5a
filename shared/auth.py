"""API keys: who calls, what they may do, and in which regions.

Keys look like `pp_<environment>_<random><crc>`; only their SHA-256 is kept, in a file that the settings name. A key is
sent as `Authorization: Bearer <key>`. The check digits let a mistyped key be told from an unknown one.
"""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from shared import ids
from shared.http import Problem

ANY: Final = "*"


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whoever holds a key: `scopes` such as `items:write`, `regions` it may act in (`*` for all)."""

    name: str
    key_sha256: str
    scopes: frozenset[str]
    regions: frozenset[str] = frozenset({ANY})

    def may_act_in(self, region: str) -> bool:
        return ANY in self.regions or region in self.regions


class Authenticator:
    """Knows the clients and tells who a request comes from."""

    def __init__(self, clients: list[Client]) -> None:
        self._by_hash = {client.key_sha256: client for client in clients}
        self._seen: dict[str, Client] = {}

    @classmethod
    def from_file(cls, path: Path | None) -> "Authenticator":
        """The clients in a JSON file; none when there is no file, so every call is refused."""
        return cls([] if path is None else msgspec.json.decode(path.read_bytes(), type=list[Client]))

    def client(self, request: Request, scope: str) -> Client:
        """Who calls; raises a 401 Problem when the key is missing or not known, 403 when it lacks `scope`."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise _unauthorized("No API key: send it as `Authorization: Bearer pp_...`.")
        client = self._seen.get(key)
        if client is None:
            if not ids.is_well_formed_api_key(key):
                raise _unauthorized("This is not an API key, or it is mistyped: its check digits do not fit.")
            client = self._by_hash.get(ids.hash_api_key(key))
            if client is None:
                raise _unauthorized(
                    "This API key is not known here: it was revoked, or belongs to another environment."
                )
            self._seen[key] = client
        if scope not in client.scopes:
            raise Problem(
                403,
                "missing-scope",
                "The key may not do this",
                f"Client {client.name!r} lacks the scope {scope!r}; it has {', '.join(sorted(client.scopes))}.",
            )
        return client


def require_region(client: Client, region: str, *, pointer: str | None = None) -> None:
    """Raises a 403 Problem when the client may not act in the region."""
    if not client.may_act_in(region):
        raise Problem(
            403,
            "region-not-allowed",
            "The key may not act in this region",
            f"Client {client.name!r} may act in {', '.join(sorted(client.regions))}, not in {region!r}.",
            pointer=pointer,
        )


def keyed(authenticator: Authenticator, scope: str, region: str) -> type[APIRoute]:
    """Routes that ask for a key with `scope` in `region` first, before they look at anything that was sent."""

    class KeyedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def ask_first(request: Request) -> Response:
                require_region(authenticator.client(request, scope), region)
                return await handle(request)

            return ask_first

    return KeyedRoute


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", "The call is not authenticated", detail, headers={"WWW-Authenticate": "Bearer"})
