"""Calls to the REST APIs of a deployment. A temporary failure (no connection, 429, 503 and similar) is retried for a
limited time; every other failure is raised at once. Each request may be repeated: a repeated item has the same id,
claims have an idempotency key, and a repeated decision changes nothing.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Self

import httpx

from piepowder.console_output import warn
from piepowder.profile import Profile
from shared.runtime.clock import SystemClock
from shared.runtime.retry import Backoff
from shared.runtime.user_errors import UserError, cause, sentence

_RETRIED: Final = (408, 425, 429, 502, 503, 504)
SILENT_ATTEMPTS: Final = 4  # about two seconds; then the command says that it waits
_PACE: Final = Backoff(first=0.2, longest=5.0)
_clock = SystemClock()


class ApiError(UserError):
    """An error response that a repeated call would not change: its status and problem details (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(sentence(problem_text(problem)), "")

    @property
    def slug(self) -> str:
        """The name of the problem's type."""
        return str(self.problem.get("type") or "").rpartition(":")[2]

    @property
    def faults(self) -> list[dict[str, Any]]:
        """The faults of the input."""
        return list(self.problem.get("errors") or [])


def problem_text(problem: Mapping[str, Any]) -> str:
    """A problem as one sentence: each fault of the input with its JSON pointer, else the problem's detail."""
    faults = [f"{error.get('pointer', '')}: {error.get('detail')}" for error in problem.get("errors") or []]
    return "; ".join(fault.removeprefix(": ") for fault in faults) or str(problem.get("detail") or problem.get("title"))


class Api:
    """The services of a deployment, called with the profile's key. `patience` is the seconds of retries for a call."""

    def __init__(
        self, profile: Profile, *, patience: float = 60.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.profile = profile
        self._patience = patience
        headers = {"Authorization": f"Bearer {profile.api_key()}"}
        self._http = httpx.AsyncClient(headers=headers, timeout=60.0, trust_env=False, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, service: str, path: str, **params: str | int) -> Any:
        """The JSON at a path of a service. Raises like `call`."""
        return (await self.call(service, "GET", path, params=params)).json()

    async def get_all(self, service: str, path: str, name: str, **params: str | int) -> list[dict[str, Any]]:
        """The entries `name` of every page of a list."""
        entries: list[dict[str, Any]] = []
        while True:
            page = await self.get(service, path, **params)
            entries += page[name]
            if page["next"] is None:
                return entries
            params["cursor"] = page["next"]

    async def post(self, service: str, path: str, body: object, *, key: str | None = None) -> Any:
        """Post a body; return the JSON of the response, None for 204. `key` is an idempotency key."""
        headers = {} if key is None else {"Idempotency-Key": f'"{key}"'}
        response = await self.call(service, "POST", path, json=body, headers=headers)
        return None if response.status_code == 204 else response.json()

    async def call(self, service: str, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request, and repeat it while its failure is temporary. Raises `ApiError` for any other error response,
        `UserError` after `patience`."""
        deadline, attempt = _clock.monotonic() + self._patience, 0
        while True:
            attempt += 1
            response, failure = await self.attempt(service, method, path, **request)
            if response is not None and response.status_code not in _RETRIED:
                if response.status_code >= 400:
                    raise ApiError(response.status_code, _problem(response))
                return response
            pause = delay(response, attempt)
            if attempt == SILENT_ATTEMPTS:
                place = f"{service} at {self.profile.url(service)}"
                warn(f"{place} did not complete the request: {failure}. Trying for up to {self._patience:.0f} s.")
            if _clock.monotonic() + pause > deadline:
                raise UserError(
                    f"{service} at {self.profile.url(service)} did not complete the request within"
                    f" {self._patience:.0f} seconds: {failure}.",
                    "Try later.",
                )
            await asyncio.sleep(pause)

    async def attempt(self, service: str, method: str, path: str, **request: Any) -> tuple[httpx.Response | None, str]:
        """Send a request once. Returns the response, None without a complete one, and the failure as text."""
        try:
            response = await self._http.request(method, self.profile.url(service) + path, **request)
        except httpx.TransportError as error:
            return None, f"it does not respond ({cause(error)})"
        return response, problem_text(_problem(response)) if response.status_code >= 400 else ""


def delay(response: httpx.Response | None, attempt: int) -> float:
    """Seconds before the next attempt: `Retry-After` (30 at most), else a growing pause."""
    asked = "" if response is None else response.headers.get("retry-after", "")
    return min(30.0, float(asked)) if asked.isdecimal() else _PACE.delay(attempt)


def _problem(response: httpx.Response) -> Mapping[str, Any]:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"detail": f"HTTP status {response.status_code}"}
