"""The former route class, for the APIs that do not use `StrictRoute` yet."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shared.auth.api_key import PROTECTED
from shared.auth.authenticator import Authenticator, require_region
from shared.http.http import documented_body, require_json, require_query, require_sound

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


def keyed(authenticator: Authenticator, scope: str, region: str | None = None) -> type[APIRoute]:
    class KeyedRoute(APIRoute):
        def __init__(self, *given: Any, **named: Any) -> None:
            named["openapi_extra"] = {"security": [{"apiKey": [scope]}]} | (named.get("openapi_extra") or {})
            named["responses"] = PROTECTED | (named.get("responses") or {})
            if _WITH_BODY & set(named.get("methods") or ()):
                named["responses"] = documented_body() | named["responses"]
            super().__init__(*given, **named)

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            parameters = [field.alias for field in self.dependant.query_params]

            async def ask_first(request: Request) -> Response:
                client = authenticator.principal(request, scope)
                if region is not None:
                    require_region(client, region)
                require_query(request, parameters)
                if request.method in _WITH_BODY:
                    require_json(request)
                    try:
                        require_sound(await request.body())
                    except ClientDisconnect:
                        return Response(status_code=499)
                return await handle(request)

            return ask_first

    return KeyedRoute
