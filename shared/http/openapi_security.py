"""What every operation asks for and may answer to whoever does not have it, in OpenAPI's words.

One scheme covers keys and people's tokens, because both are sent alike; an operation names the scope that it asks for.
"""

from typing import Any, Final

from fastapi import FastAPI

from shared.auth.clients import MEANINGS

SCHEME: Final = "apiKey"
RATE_LIMITED: Final = "rate-limited"
_PROBLEM_JSON: Final = "application/problem+json"
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
                    path[method]["responses"].setdefault("429", limited())
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
    detail = "Client 'shop' may make 200 calls a second, 400 at once."
    return {
        "description": "More calls than the client may make; see `Retry-After`",
        "headers": {
            "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}},
            "RateLimit": {
                "description": "What remains (`r`), and in how many seconds it is whole again (`t`)",
                "schema": {"type": "string"},
                "example": '"requests";r=0;t=2',
            },
            "RateLimit-Policy": {
                "description": "The quota (`q`), and the seconds in which it comes (`w`)",
                "schema": {"type": "string"},
                "example": '"requests";q=400;w=2',
            },
        },
        "content": {
            _PROBLEM_JSON: {
                "schema": {"$ref": "#/components/schemas/ProblemDetails"},
                "example": {
                    "type": f"urn:piepowder:problem:{RATE_LIMITED}",
                    "title": "Too many calls",
                    "status": 429,
                    "detail": detail,
                    "retry_after": 1,
                },
            }
        },
    }
