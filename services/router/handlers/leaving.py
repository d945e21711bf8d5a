"""Regions that a new operating model leaves out: a region leaves only when nothing in it waits any more."""

from collections.abc import Mapping
from typing import Protocol

from services.router.domain.publication import ControlSnapshot, leaving_regions
from shared.contracts.events import OperatingModelPublished
from shared.runtime.errors import Transient
from shared.validation.faults import Fault


class RegionProgress(Protocol):
    """Reports what a region still has to finish: `services.router.drain`."""

    async def unfinished(self, region: str) -> list[str]:
        """What waits in the region, one sentence each; empty if it is drained. Raises Transient if that is unknown."""
        ...


async def undrained_faults(
    model: OperatingModelPublished | None,
    in_force: ControlSnapshot,
    progress: RegionProgress,
    *,
    other_faults: bool,
) -> list[Fault]:
    """A fault for everything that waits in a region that `model` leaves out.

    Raises Transient if that is unknown; with `other_faults`, the publication is rejected anyway, and this is a fault.
    """
    waiting: dict[str, list[str]] = {}
    for region in leaving_regions(model, in_force.operating_model):
        try:
            waiting[region] = await progress.unfinished(region)
        except Transient as error:
            if not other_faults:
                raise
            waiting[region] = [f"whether it is drained is not known: {error}"]
    return _faults(waiting)


def _faults(waiting: Mapping[str, list[str]]) -> list[Fault]:
    return [
        Fault("/operating_model/regions", f"region {region!r} cannot leave the model yet: {what}")
        for region, whats in waiting.items()
        for what in whats
    ]
