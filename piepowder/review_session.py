"""Calls of the review API of a region, for one reviewer: claim, extend, release, decide.

The terminal review and the simulated reviewers use it.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from piepowder.case_display import EARLIER_SHOWN, DecidedCases, notice_of
from piepowder.client import Api, ApiError
from shared.contracts import ids
from shared.runtime.clock import SystemClock, to_text

LEASE_SECONDS: Final = 120
MAX_SKIPPED: Final = 1_000  # of a claim
LONGEST_NOTE: Final = 5_000  # characters
MAX_REASONS: Final = 20  # of a decision
LEASE_ENDED: Final = frozenset(
    {
        "lease-expired",
        "lease-released",
        "wrong-lease-token",
        "lost-in-restore",
        "superseded",
        "withdrawn",
        "closed",
        "already-decided",
    }
)
"""The problem types of a 409 after which the reviewer no longer holds the case."""
_clock = SystemClock()


class LeasedCase(msgspec.Struct, frozen=True):
    """A case and its lease, as `POST /v1/claims` returns them."""

    case: dict[str, Any]
    lease: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.case["case_id"])

    @property
    def token(self) -> int:
        return int(self.lease["token"])


class ValidReasons(msgspec.Struct, frozen=True):
    """The reason codes that a decision may have now, each with its titles."""

    titles: Mapping[str, Sequence[str]] = {}

    def unknown(self, codes: Sequence[str]) -> list[str]:
        """Those of `codes` that are not valid."""
        return [code for code in codes if code not in self.titles]


class ReviewSession:
    """The review API of a region, for one reviewer."""

    def __init__(self, api: Api, region: str, reviewer: str, team: str, queues: Sequence[str] = ()) -> None:
        self.region = region
        self.reviewer = reviewer
        self._api = api
        self._team = team
        self._queues = list(queues)
        self._claims = 0
        self._run = ids.derive("claims", reviewer, str(os.getpid()), to_text(_clock.now()))

    async def claim(self, *, skipped: Sequence[str] = (), only: Sequence[str] = ()) -> LeasedCase | None:
        """Claim the most urgent case that is none of `skipped` and, if given, one of `only`; None if none waits."""
        self._claims += 1
        wanted: dict[str, Any] = {"reviewer": self.reviewer, "team": self._team, "lease_seconds": LEASE_SECONDS}
        options = {"queues": self._queues, "skipped_cases": list(skipped), "only_cases": list(only)}
        wanted |= {name: value for name, value in options.items() if value}
        claim = await self._api.post(self._service, "/v1/claims", wanted, key=f"{self._run}-{self._claims}")
        return None if claim is None else msgspec.convert(claim, LeasedCase)

    async def heartbeat(self, leased: LeasedCase) -> None:
        """Extend the lease; raises `ApiError` when it is lost."""
        await self._post(leased, "heartbeat", {"lease_seconds": LEASE_SECONDS})

    async def release(self, leased: LeasedCase, reason: str) -> None:
        """Release the case."""
        await self._post(leased, "release", {"reason": reason})

    async def decide(self, leased: LeasedCase, action: str, reasons: Sequence[str], note: str = "") -> None:
        """Decide the case; raises `ApiError` when this reviewer no longer holds it."""
        body: dict[str, Any] = {"action": action, "reasons": list(reasons)}
        if note:
            body["note"] = note
        await self._post(leased, "decisions", body)

    async def decision(self, leased: LeasedCase) -> tuple[str, str] | None:
        """The reviewer and the action of the case's last decision; None if it has none."""
        case = await self._api.get(self._service, f"/v1/cases/{leased.id}")
        decisions = case["decisions"]
        return (str(decisions[-1]["reviewer"]), str(decisions[-1]["action"])) if decisions else None

    async def reason_codes(self) -> ValidReasons:
        """The reason codes that are valid now."""
        found = await self._api.get(self._service, "/v1/reasons")
        return ValidReasons({reason["code"]: reason["titles"] for reason in found["reasons"]})

    async def earlier(self, case: Mapping[str, Any]) -> DecidedCases:
        """The latest decided cases of the case's subject."""
        subject = {name: str(case[name]) for name in ("platform", "kind", "subject_id")}
        try:
            found = await self._api.get(self._service, "/v1/decisions", **subject, limit=EARLIER_SHOWN)
        except ApiError as error:
            return DecidedCases(problem=str(error))
        return DecidedCases(found["cases"], found["next"] is not None)

    async def waiting(self) -> int | None:
        """The number of waiting cases in the reviewer's queues; None if the key may not read it."""
        try:
            found = await self._api.get(self._service, "/v1/queues")
        except ApiError:
            return None
        queues = [queue for queue in found["queues"] if not self._queues or queue["queue"] in self._queues]
        return sum(int(queue["waiting"]) for queue in queues)

    @property
    def _service(self) -> str:
        return f"decision-{self.region}"

    async def _post(self, leased: LeasedCase, operation: str, body: Mapping[str, Any]) -> None:
        lease = {"lease_token": leased.token, "reviewer": self.reviewer}
        await self._api.post(self._service, f"/v1/cases/{leased.id}/{operation}", {**lease, **body})


def suggested_reasons(case: Mapping[str, Any], codes: ValidReasons) -> list[str]:
    """The default reason codes: the valid ones of the case's own, else the ground of the notice, else OTHER."""
    own = [code for code in case.get("reasons") or [] if code in codes.titles]
    notice = notice_of(case)
    ground = "" if notice is None else str(notice["ground"]).upper()
    return own or ([ground] if ground in codes.titles else ["OTHER"])
