"""What the router says of a change: intake asks it over REST, with a key of its own, and publishes nothing by that."""

from pathlib import Path
from typing import Final

import httpx
import msgspec

from services.intake.domain.faults import Fault
from services.intake.domain.posts import Refused
from services.intake.requests.domain import life
from services.intake.requests.domain.life import Check, Difference
from shared.contracts import ids
from shared.contracts.events import ProposedChange
from shared.http.http import InputError
from shared.runtime.errors import Transient

_PATH: Final = "/v1/control/check"
_SECONDS: Final = httpx.Timeout(30.0, connect=2.0)


class _InForce(msgspec.Struct, frozen=True):
    operating_model: str | None = None
    policy_set: str | None = None


class _Would(msgspec.Struct, frozen=True):
    differing: int
    differences: list[Difference]


class _Checked(msgspec.Struct, frozen=True):
    in_force: _InForce
    operating_model: _Would | None = None
    policy_set: _Would | None = None


class _Refusal(msgspec.Struct, frozen=True):
    detail: str
    errors: list[InputError] = []


_decode_checked = msgspec.json.Decoder(_Checked).decode
_decode_refusal = msgspec.json.Decoder(_Refusal).decode


class RouterCheck:
    """Asks the router at `url`; its key, which needs the scope `control:read`, is in `key_file`."""

    def __init__(self, url: str, key_file: Path | None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._key_file = key_file
        self._http = httpx.AsyncClient(base_url=url, timeout=_SECONDS, trust_env=False, transport=transport)

    async def stop(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def check(self, change: ProposedChange) -> Check:
        """What the change would change. Raises Refused with pointers below `/change` when it does not fit, Transient
        when the router does not answer, or has no time."""
        headers = {"Authorization": f"Bearer {self._key()}", "Content-Type": "application/json"}
        try:
            answer = await self._http.post(_PATH, content=ids.canonical(change), headers=headers)
        except httpx.HTTPError as error:
            raise Transient(f"The router at {self._http.base_url} does not answer: {type(error).__name__}.") from error
        try:
            if answer.status_code == 200:
                return _check(_decode_checked(answer.content))
            refusal = _decode_refusal(answer.content)
        except msgspec.DecodeError as error:
            raise Transient(f"The router answered {answer.status_code} and nothing to be understood.") from error
        if answer.status_code != 422:
            raise Transient(f"The router did not check the change ({answer.status_code}): {refusal.detail}")
        faults = [Fault(f"/change{fault.pointer}", fault.detail) for fault in refusal.errors]
        raise Refused(
            422, "unfit-change", "The attached change does not fit", faults or [Fault("/change", refusal.detail)]
        )

    def _key(self) -> str:
        if self._key_file is None:
            raise Transient("No key for the router is set (PIEPOWDER_ROUTER_KEY_FILE).")
        try:
            return self._key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Transient(f"The key for the router cannot be read: {error}.") from error


def _check(checked: _Checked) -> Check:
    parts = [part for part in (checked.operating_model, checked.policy_set) if part is not None]
    return Check(
        verdict=life.FITS,
        operating_model=checked.in_force.operating_model or "",
        policy_set=checked.in_force.policy_set or "",
        differing=sum(part.differing for part in parts),
        differences=[difference for part in parts for difference in part.differences],
    )
