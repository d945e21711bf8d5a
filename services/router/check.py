"""Whether a publication would come into force, and what it would change: everything that publishing does but publish.

Asked by whoever prepares a change, so it may be asked often and about anything. Conditions are compiled beside the
event loop, one check at a time, with few waiting and a bound on what one may hold: cases go on being routed meanwhile.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from services.router.control import Control, Now, PolicySetContent, publication_faults, unfit
from services.router.differences import Difference, of_models, of_policy_sets
from shared.contracts.events import OperatingModelPublished, PolicySetPublished, Region
from shared.http.http import InputError, Problem

MOST_CONDITIONS: Final = 2_000  # they take about 5 s to compile
MOST_DIFFERENCES: Final = 200
_WAITING: Final = 4


class Would(msgspec.Struct, frozen=True):
    """What a publication would change: `differing` in all, the first of them as `differences`."""

    changed: bool
    differing: int
    differences: list[Difference]


class InForceIds(msgspec.Struct, frozen=True):
    """What a check was made against; null for what was not in force."""

    operating_model: str | None
    policy_set: str | None


class Checked(msgspec.Struct, frozen=True):
    """It would come into force. What is not sent is null; a difference of the operating model counts as one."""

    in_force: InForceIds
    operating_model: Would | None
    policy_set: Would | None


class Checks:
    """Checks publications against what is in force in this process; publishes nothing."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0

    async def check(
        self, regions: list[Region] | None, diff: list[Region] | None, policy_set: PolicySetContent | None
    ) -> Checked:
        """What it would change. `diff` has regions as they would be, the others staying as they are; it stands for
        `regions`, which are all.

        Raises a 422 Problem with every fault, a 429 one when too many checks wait.
        """
        if policy_set is not None and (n := sum(len(p.when) for p in policy_set.policies)) > MOST_CONDITIONS:
            detail = f"the set has {n} conditions; a check takes {MOST_CONDITIONS} at most"
            raise unfit([InputError("/policy_set/policies", detail)], "It was not checked.")
        if self._waiting >= _WAITING:
            raise Problem(
                429, "overloaded", "Too many checks", "Others are being checked. Send the same again.", retry_after=2
            )
        self._waiting += 1
        try:
            async with self._one_at_a_time:
                return await asyncio.to_thread(self._check, regions, diff, policy_set)
        finally:
            self._waiting -= 1

    def _check(
        self, regions: list[Region] | None, diff: list[Region] | None, policy_set: PolicySetContent | None
    ) -> Checked:
        now = self._control.now
        kept: list[Region] = []
        if diff is not None:
            if now.model is None:
                detail = "no operating model is in force that could differ; send `operating_model`"
                raise unfit([InputError("/operating_model_diff", detail)], "It does not fit.")
            named = {region.id for region in diff}
            kept = [region for region in now.model.published.regions if region.id not in named]
            regions = kept + diff
        model = None if regions is None else _model(regions)
        content = None if policy_set is None else _content(policy_set)
        faults = publication_faults(model, content, now, self._control.regions, self._control.compile_policy_set)
        if faults:
            raise unfit([_of_diff(f, len(kept)) for f in faults] if diff is not None else faults, "It does not fit.")
        if diff is not None:
            model = _model(_in_place(diff, now))
        return _checked(model, content, now)


def _checked(model: OperatingModelPublished | None, content: PolicySetPublished | None, now: Now) -> Checked:
    model_now = None if now.model is None else now.model.published
    set_now = None if now.policy_set is None else now.policy_set.published
    return Checked(
        InForceIds(None if model_now is None else model_now.id, None if set_now is None else set_now.id),
        None if model is None else _would(of_models(model_now, model)),
        None if content is None else _would(of_policy_sets(set_now, content)),
    )


def _model(regions: list[Region]) -> OperatingModelPublished:
    return OperatingModelPublished(id="", number=0, published_by="", regions=regions)


def _content(policy_set: PolicySetContent) -> PolicySetPublished:
    return PolicySetPublished(id="", number=0, published_by="", **msgspec.structs.asdict(policy_set))


def _would(differences: Sequence[Difference]) -> Would:
    return Would(bool(differences), len(differences), list(differences[:MOST_DIFFERENCES]))


def _in_place(diff: Sequence[Region], now: Now) -> list[Region]:
    """All regions, those of `diff` where they stand in force, new ones at the end."""
    assert now.model is not None  # noqa: S101 - else there was nothing to differ from
    new = {region.id: region for region in diff}
    return [new.pop(region.id, region) for region in now.model.published.regions] + list(new.values())


def _of_diff(fault: InputError, kept: int) -> InputError:
    """A fault of the operating model as one of the difference, which stands behind the `kept` regions."""
    parts = fault.pointer.split("/")
    if parts[1] != "operating_model":
        return fault
    parts[1] = "operating_model_diff"
    if len(parts) > 3:
        parts[3] = str(int(parts[3]) - kept)
    return InputError("/".join(parts), fault.detail)
