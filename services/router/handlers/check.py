"""Checks a publication without publishing it: its faults, and its differences from the parts in force.

Clients may call this often and with any content. Conditions therefore compile in a thread, one check at a time, with a
bounded queue and a bounded number of conditions; routing continues meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from services.router.control import ControlState
from services.router.domain.differences import ControlDifference, operating_model_differences, policy_set_differences
from services.router.domain.publication import (
    ControlSnapshot,
    PolicySetContent,
    new_operating_model,
    new_policy_set,
    publication_faults,
    rejected,
)
from services.router.domain.routing import PolicySet
from services.router.handlers.leaving import RegionProgress, check_leaving_regions
from shared.contracts.events import PolicySetPublished, Region
from shared.validation.faults import Fault

MAX_CONDITIONS: Final = 2_000  # they compile in about 5 s
_MAX_WAITING: Final = 4


class CheckResult(NamedTuple):
    """The contents in force at the check, and the differences of each part; None for an omitted part.

    `slow_conditions` has the slow conditions of the policy set by name, each with its construct.
    """

    in_force: ControlSnapshot
    operating_model: list[ControlDifference] | None
    policy_set: list[ControlDifference] | None
    slow_conditions: Mapping[str, str]


class TooManyChecks(Exception):  # noqa: N818 - named after the fact, not after an error
    """Too many checks wait already."""


class CheckPublication:
    """Checks publications against the parts in force in this process."""

    def __init__(self, control: ControlState, progress: RegionProgress) -> None:
        self._control = control
        self._progress = progress
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def check(
        self, regions: list[Region] | None, diff: list[Region] | None, content: PolicySetContent | None
    ) -> CheckResult:
        """Compare a publication with the parts in force.

        `diff` replaces `regions`: it has only the new and changed regions, each complete. Raises InputRejected with all
        faults, TooManyChecks, and Transient if it is not known whether a region that leaves the model is drained.
        """
        if content is not None and (n := sum(len(policy.when) for policy in content.policies)) > MAX_CONDITIONS:
            detail = f"the set has {n} conditions; a check accepts at most {MAX_CONDITIONS}"
            raise rejected([Fault("/policy_set/policies", detail)], "It was not checked.")
        if self._waiting >= _MAX_WAITING:
            raise TooManyChecks("Other publications are being checked. Send the same request again.")
        self._waiting += 1
        try:
            async with self._lock:
                model = None if regions is None else new_operating_model(regions)
                leaving = await check_leaving_regions(model, self._control.snapshot, self._progress)
                result = await asyncio.to_thread(self._check, regions, diff, content, leaving.faults)
            if leaving.unknown is not None:
                raise leaving.unknown
            return result
        finally:
            self._waiting -= 1

    def _check(
        self,
        regions: list[Region] | None,
        diff: list[Region] | None,
        content: PolicySetContent | None,
        leaving: Sequence[Fault],
    ) -> CheckResult:
        in_force = self._control.snapshot
        unchanged: list[Region] = []
        if diff is not None:
            if in_force.operating_model is None:
                detail = "there is no operating model in force to compare with; send `operating_model`"
                raise rejected([Fault("/operating_model_diff", detail)], "It cannot come into force.")
            named = {region.id for region in diff}
            unchanged = [region for region in in_force.operating_model.regions if region.id not in named]
            regions = unchanged + diff
        model = None if regions is None else new_operating_model(regions)
        policy_set = None if content is None else new_policy_set(content)
        compiled: list[PolicySet] = []

        def compile_policy_set(published: PolicySetPublished) -> PolicySet:
            policy_set = self._control.compile_policy_set(published)
            compiled.append(policy_set)  # the set itself first; then parts of it, for the checks of its lists
            return policy_set

        faults = publication_faults(
            model, policy_set, in_force, self._control.regions, compile_policy_set, leaving=leaving
        )
        if faults:
            if diff is not None:
                faults = [_in_diff(fault, len(unchanged)) for fault in faults]
            raise rejected(faults, "It cannot come into force.")
        if diff is not None:
            model = new_operating_model(_in_place(diff, in_force))
        return CheckResult(
            in_force,
            None if model is None else operating_model_differences(in_force.operating_model, model),
            None if policy_set is None else policy_set_differences(in_force.policy_set, policy_set),
            compiled[0].slow_conditions if compiled else {},
        )


def _in_place(diff: Sequence[Region], in_force: ControlSnapshot) -> list[Region]:
    """All regions in the order in force: changed regions replaced, new regions at the end."""
    assert in_force.operating_model is not None  # noqa: S101 - checked by the caller
    replacements = {region.id: region for region in diff}
    in_order = [replacements.pop(region.id, region) for region in in_force.operating_model.regions]
    return in_order + list(replacements.values())


def _in_diff(fault: Fault, unchanged: int) -> Fault:
    """A fault of the operating model, with its pointer into the diff, whose regions follow the `unchanged` regions."""
    parts = fault.pointer.split("/")
    if parts[1] != "operating_model":
        return fault
    parts[1] = "operating_model_diff"
    if len(parts) > 3:
        parts[3] = str(int(parts[3]) - unchanged)
    return Fault("/".join(parts), fault.detail)
