"""The REST client that asks the router to check a change. The router publishes nothing for this call."""

from pathlib import Path
from typing import Final

import httpx
import msgspec

from services.intake.requests.domain import lifecycle
from services.intake.requests.domain.lifecycle import ChangeCheck, ProposedDifference
from shared.contracts import ids
from shared.contracts.events import ProposedChange
from shared.http.problems import InputError
from shared.runtime.errors import Transient
from shared.runtime.user_errors import cause, sentence
from shared.validation.faults import Fault, InputRejected, RejectionType

INVALID_CHANGE: Final = RejectionType(
    "unfit-change", 422, "The attached change is invalid", "/change/policy_set/policies/0/when: unknown name"
)
_PATH: Final = "/v1/control/check"
_SECONDS: Final = httpx.Timeout(30.0, connect=2.0)


class _InForce(msgspec.Struct, frozen=True):
    operating_model: str | None = None
    policy_set: str | None = None


class _Differences(msgspec.Struct, frozen=True):
    differing: int
    differences: list[ProposedDifference]


class _Checked(msgspec.Struct, frozen=True):
    in_force: _InForce
    operating_model: _Differences | None = None
    policy_set: _Differences | None = None


class _Rejection(msgspec.Struct, frozen=True):
    detail: str
    errors: list[InputError] = []


_decode_checked = msgspec.json.Decoder(_Checked).decode
_decode_rejection = msgspec.json.Decoder(_Rejection).decode


class RouterCheck:
    """The client of the router at `url`. `key_file` contains its API key, of scope `control:read`."""

    def __init__(self, url: str, key_file: Path | None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._key_file = key_file
        self._http = httpx.AsyncClient(base_url=url, timeout=_SECONDS, trust_env=False, transport=transport)

    async def stop(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def check(self, change: ProposedChange) -> ChangeCheck:
        """The differences between a change and the versions in force.

        Raises InputRejected with pointers below `/change` for an invalid change, Transient when the router does not
        respond or is overloaded.
        """
        headers = {"Authorization": f"Bearer {self._key()}", "Content-Type": "application/json"}
        try:
            response = await self._http.post(_PATH, content=ids.canonical(change), headers=headers)
        except httpx.HTTPError as error:
            raise Transient(f"The router at {self._http.base_url} does not respond: {cause(error)}.") from error
        try:
            if response.status_code == 200:
                return _check(_decode_checked(response.content))
            rejection = _decode_rejection(response.content)
        except msgspec.DecodeError as error:
            raise Transient(f"The router returned {response.status_code} with an unreadable body.") from error
        if response.status_code != 422:
            raise Transient(
                sentence(f"The router did not check the change ({response.status_code}): {rejection.detail}")
            )
        faults = [Fault(f"/change{fault.pointer}", fault.detail) for fault in rejection.errors]
        raise InputRejected(INVALID_CHANGE, faults or [Fault("/change", rejection.detail)])

    def _key(self) -> str:
        if self._key_file is None:
            raise Transient("The key for the router is not configured (PIEPOWDER_ROUTER_KEY_FILE).")
        try:
            return self._key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Transient(f"The key for the router cannot be read: {error}.") from error


def _check(checked: _Checked) -> ChangeCheck:
    parts = [part for part in (checked.operating_model, checked.policy_set) if part is not None]
    return ChangeCheck(
        verdict=lifecycle.FITS,
        operating_model=checked.in_force.operating_model or "",
        policy_set=checked.in_force.policy_set or "",
        differing=sum(part.differing for part in parts),
        differences=[difference for part in parts for difference in part.differences],
    )
