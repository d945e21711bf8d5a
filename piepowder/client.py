"""Calls to a running system's REST: patient with what passes, plain about what does not.

A service that is being started again, an overload (429), a dependency away (503, `Retry-After`) are waited for, within
a bound. Everything that is sent may be sent again: items name themselves, claims carry an idempotency key, and a
decision repeated is the same decision.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Self

import httpx

from deploy.local.errors import StackError
from deploy.local.system import Running
from shared.runtime.clock import SystemClock
from shared.runtime.retry import Backoff

_PASSING: Final = (408, 425, 429, 502, 503, 504)
_PACE: Final = Backoff(first=0.2, longest=5.0)
_clock = SystemClock()


class Refused(Exception):  # noqa: N818 - what happened to the call
    """A service said no, and saying it again would not help: its problem details (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(sentence(problem))


def sentence(problem: Mapping[str, Any]) -> str:
    """A problem in words: each fault of the input with its JSON pointer, or else its detail."""
    faults = [f"{error.get('pointer', '')}: {error.get('detail')}" for error in problem.get("errors") or []]
    return "; ".join(fault.removeprefix(": ") for fault in faults) or str(problem.get("detail") or problem.get("title"))


class Api:
    """The services of a running system, called with the local person's key. `patience` is in seconds."""

    def __init__(
        self, running: Running, key: str, *, patience: float = 60.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.running = running
        self._patience = patience
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"}, timeout=60.0, trust_env=False, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, service: str, path: str, **params: str | int) -> Any:
        """The JSON at a path of a service; raises Refused, or `StackError` when the service stays away."""
        return (await self.call(service, "GET", path, params=params)).json()

    async def post(self, service: str, path: str, body: object, *, key: str | None = None) -> httpx.Response:
        """Post JSON; `key` is an idempotency key."""
        headers = {} if key is None else {"Idempotency-Key": f'"{key}"'}
        return await self.call(service, "POST", path, json=body, headers=headers)

    async def call(self, service: str, method: str, path: str, **request: Any) -> httpx.Response:
        """One call, tried again while it may pass."""
        deadline, attempt = _clock.monotonic() + self._patience, 0
        while True:
            attempt += 1
            answer, why = await self.attempt(service, method, path, **request)
            if answer is not None and answer.status_code not in _PASSING:
                if answer.status_code >= 400:
                    raise Refused(answer.status_code, _problem(answer))
                return answer
            pause = delay(answer, attempt)
            if _clock.monotonic() + pause > deadline:
                raise StackError(f"{service} did not do it within {self._patience:.0f} seconds: {why}.", "Try later.")
            await asyncio.sleep(pause)

    async def attempt(self, service: str, method: str, path: str, **request: Any) -> tuple[httpx.Response | None, str]:
        """One try: the answer, or None when none came whole; and in words what hindered it."""
        try:
            answer = await self._http.request(method, self.running.url(service) + path, **request)
        except httpx.TransportError as error:
            return None, f"it does not answer ({type(error).__name__})"
        return answer, sentence(_problem(answer)) if answer.status_code >= 400 else ""


def delay(answer: httpx.Response | None, attempt: int) -> float:
    """Seconds before the next try: what the service asks for (30 at most), else longer each time."""
    asked = "" if answer is None else answer.headers.get("retry-after", "")
    return min(30.0, float(asked)) if asked.isdecimal() else _PACE.delay(attempt)


def _problem(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"detail": f"HTTP status {answer.status_code}"}
