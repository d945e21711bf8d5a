"""The reason codes of reviewers' decisions.

A code is valid if the policy set in force has it: a policy names it, or it is a ground of notices in capitals, which
every set has. The router's own code `POLICY_ERROR` explains why a case needs a reviewer; it is no reason of a decision.
Automatic decisions are not checked: their codes are those of the set that decided.
"""

from collections.abc import Sequence
from typing import Final

from services.decision.domain import rejections
from shared.contracts.events import PolicySetPublished
from shared.contracts.grounds import CATEGORIES
from shared.validation.faults import Fault, InputRejected

_LISTED: Final = 50  # codes in a message
_RETRY_SECONDS: Final = 5


class ReasonCodes:
    """The valid codes under a policy set. `titles` has the titles of each code, in the order of the codes."""

    def __init__(self, published: PolicySetPublished) -> None:
        self.policy_set = published.id
        self.number = published.number
        found: dict[str, list[str]] = {}
        for policy in published.policies:
            for code in policy.reasons:
                found.setdefault(code, []).extend([policy.title] if policy.title else [])
        for ground in CATEGORIES:
            found.setdefault(ground.upper(), []).append(f"Ground of notices: {ground.replace('_', ' ')}")
        self.titles = {code: list(dict.fromkeys(found[code])) for code in sorted(found)}

    def require_known(self, reasons: Sequence[str]) -> None:
        """Require that the set in force has all of these codes; raises InputRejected with each unknown one."""
        unknown = [index for index, code in enumerate(reasons) if code not in self.titles]
        if not unknown:
            return
        codes = [*self.titles]
        more = f" and {len(codes) - _LISTED} more" if len(codes) > _LISTED else ""
        expected = f"expected {', '.join(codes[:_LISTED])}{more} (GET /v1/reasons)"
        faults = [
            Fault(f"/reasons/{index}", f"{reasons[index]!r} is no reason code of policy set {self.policy_set}")
            for index in unknown
        ]
        names = ", ".join(repr(reasons[index]) for index in unknown)
        detail = f"Policy set {self.policy_set}, in force, has no reason code {names}: {expected}."
        raise InputRejected(rejections.UNKNOWN_REASON, faults, detail)


def require_known(codes: ReasonCodes | None, reasons: Sequence[str]) -> None:
    """Require that all `reasons` are valid; `codes` is None while no policy set is in force. Raises InputRejected."""
    if not reasons:
        return
    if codes is None:
        raise no_policy_set()
    codes.require_known(reasons)


def no_policy_set() -> InputRejected:
    """503 while no policy set is in force in this process."""
    return rejections.NO_POLICY_SET.with_message(rejections.NO_POLICY_SET.example, retry_after=_RETRY_SECONDS)
