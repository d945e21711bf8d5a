"""Authentication as a FastAPI security dependency.

    Reviewer = Annotated[Principal, Security(api_key, scopes=["reviews:write"])]

    @router.post("/claims")
    async def claim(reviewer: Reviewer, body: ClaimBody) -> LeaseView: ...

`StrictRoute` runs the check before it reads the body. The `Authenticator` is `app.state.authenticator`.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastapi.security import SecurityScopes
from fastapi.security.http import HTTPBase
from starlette.requests import Request

from shared.auth.authenticator import Authenticator
from shared.auth.clients import MEANINGS
from shared.auth.principal import MISSING_SCOPE, Principal
from shared.auth.refusals import RATE_LIMITED, UNAUTHORIZED
from shared.http.problems import NOT_READY, problems
from shared.http.route import BeforeCall
from shared.validation.faults import INVALID_REQUEST

PROTECTED: Final[dict[int | str, dict[str, Any]]] = problems(
    UNAUTHORIZED, MISSING_SCOPE, INVALID_REQUEST, RATE_LIMITED, NOT_READY
)
"""The `responses` of a router whose operations need a key."""

_SCOPES = "\n".join(f"- `{scope}`: {meaning}" for scope, meaning in sorted(MEANINGS.items()))


class ApiKey(HTTPBase, BeforeCall):
    """`Authorization: Bearer ...` with an API key or a person's access token."""

    def __init__(self) -> None:
        super().__init__(
            scheme="bearer",
            scheme_name="apiKey",
            description="An API key, `pp_<environment>_...`, or a person's access token (JWT, RFC 9068) if the"
            f" deployment has an issuer. Both have scopes and regions:\n\n{_SCOPES}",
        )

    def check(self, request: Request, scopes: Sequence[str]) -> Principal:
        """The caller; raises a 401, 429 or 503 Problem, or InputRejected (403)."""
        authenticator: Authenticator = request.app.state.authenticator
        [scope] = scopes
        return authenticator.principal(request, scope)

    async def __call__(self, request: Request, security_scopes: SecurityScopes) -> Principal:  # type: ignore[override]  # FastAPI's own dependencies return credentials
        return self.check(request, security_scopes.scopes)


api_key: Final = ApiKey()
