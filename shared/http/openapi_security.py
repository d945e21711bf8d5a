"""What every operation asks for and may answer to whoever does not have it, in OpenAPI's words.

One scheme covers keys and people's tokens, because both are sent alike; an operation names the scope that it asks for.
"""

from typing import Any, Final

from fastapi import FastAPI

from shared.auth.clients import MEANINGS
from shared.auth.refusals import MISSING_SCOPE, UNAUTHORIZED
from shared.auth.refusals import RATE_LIMITED as RATE_LIMITED_TYPE
from shared.http.problems import INVALID_REQUEST, NOT_READY, problems

SCHEME: Final = "apiKey"
_PROTECTED: Final = problems(UNAUTHORIZED, MISSING_SCOPE, INVALID_REQUEST, RATE_LIMITED_TYPE, NOT_READY)
_METHODS: Final = frozenset({"get", "put", "post", "delete", "patch"})


def security(scope: str) -> list[dict[str, list[str]]]:
    """What an operation asks for: an API key or a person's token, either with the scope."""
    return [{SCHEME: [scope]}]


def add_security(app: FastAPI) -> None:
    """Describe the scheme, and what an operation that asks for it answers above a client's limit."""
    generate = app.openapi

    def with_security() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {}).setdefault("securitySchemes", {})[SCHEME] = scheme()
        for path in document["paths"].values():
            for method in _METHODS & path.keys():
                if path[method].get("security"):
                    for status, response in _PROTECTED.items():
                        path[method]["responses"].setdefault(str(status), response)
        return document

    app.openapi = with_security  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def scheme() -> dict[str, Any]:
    """`Authorization: Bearer ...`."""
    scopes = "\n".join(f"- `{scope}`: {meaning}" for scope, meaning in sorted(MEANINGS.items()))
    return {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, `pp_<environment>_...`, or where an issuer is set up a person's access token (JWT,"
        f" RFC 9068). Either has scopes, and regions that it may act in:\n\n{scopes}",
    }


def limited() -> dict[str, Any]:
    """The answer to a call above its client's limit."""
    return problems(RATE_LIMITED_TYPE)[429]
