"""Regions that a new operating model leaves out: a region leaves only when nothing in it waits any more."""

from typing import NamedTuple, Protocol

from services.router.domain.publication import ControlSnapshot, leaving_regions
from shared.contracts.events import OperatingModelPublished, Region
from shared.runtime.errors import Transient
from shared.validation.faults import Fault


class RegionProgress(Protocol):
    """Reports what a region still has to finish: `services.router.drain`."""

    async def unfinished(self, region: str) -> list[str]:
        """The reasons why the region is not drained, as clauses; none if it is. Raises Transient if that is unknown."""
        ...


class LeavingRegions(NamedTuple):
    """The leaving regions: a fault for each that cannot leave yet, and why it is not known for another one."""

    faults: list[Fault]
    unknown: Transient | None


async def check_leaving_regions(
    model: OperatingModelPublished | None, in_force: ControlSnapshot, progress: RegionProgress
) -> LeavingRegions:
    """Check the regions that `model` leaves out: they must own no market in the model in force, and be drained."""
    faults: list[Fault] = []
    unknown: Transient | None = None
    for region in leaving_regions(model, in_force.operating_model):
        reasons = _ownership(region)
        try:
            reasons += await progress.unfinished(region.id)
        except Transient as error:
            if reasons:
                reasons.append(f"whether it is drained is not known: {error}")
            else:
                unknown = unknown or error
        if reasons:
            detail = f"region {region.id!r} cannot leave the model yet: {'; '.join(reasons)}"
            faults.append(Fault("/operating_model/regions", detail))
    return LeavingRegions(faults, unknown)


def _ownership(region: Region) -> list[str]:
    if not region.markets:
        return []
    return [f"it owns {', '.join(region.markets)}, so publish it without markets first"]
