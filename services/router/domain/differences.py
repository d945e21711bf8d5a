"""Differences between a publication and the parts in force, by name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from shared.contracts.events import OperatingModelPublished, PolicySetPublished, Queue, Region

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"
REORDERED: Final = "reordered"  # same elements, other order; of policies with equal priority the first sets the queue

_OTHER_FIELDS: Final = [name for name in Region.__struct_fields__ if name not in ("id", "markets", "queues")]


class ControlDifference(NamedTuple):
    """One difference: `what` is a name such as `policies/weapons`; `how` is added, removed, changed or reordered."""

    what: str
    how: str


def policy_set_differences(current: PolicySetPublished | None, new: PolicySetPublished) -> list[ControlDifference]:
    """Differences between two policy sets; `current` is None if none is in force."""
    if current is None:
        return [ControlDifference("policy_set", ADDED)]
    found = [*_by_name("terms", _lists(current), _lists(new))]
    found += _by_name("policies", {p.id: p for p in current.policies}, {p.id: p for p in new.policies})
    if current.default_verdict != new.default_verdict:
        found.append(ControlDifference("default_verdict", CHANGED))
    return found


def operating_model_differences(
    current: OperatingModelPublished | None, new: OperatingModelPublished
) -> list[ControlDifference]:
    """Differences between two operating models; `current` is None if none is in force."""
    if current is None:
        return [ControlDifference("operating_model", ADDED)]
    before, after = _regions(current.regions), _regions(new.regions)
    found: list[ControlDifference] = []
    for difference in _by_name("regions", before, after):
        if difference.how == CHANGED:
            name = difference.what.removeprefix("regions/")
            found += _region_differences(difference.what, before[name], after[name])
        else:
            found.append(difference)
    return found


def _region_differences(at: str, current: Region, new: Region) -> Iterator[ControlDifference]:
    yield from _by_name(f"{at}/markets", dict.fromkeys(current.markets), dict.fromkeys(new.markets))
    yield from _by_name(f"{at}/queues", _queues(current), _queues(new))
    for name in _OTHER_FIELDS:
        if getattr(current, name) != getattr(new, name):
            yield ControlDifference(f"{at}/{name}", CHANGED)


def _by_name(at: str, current: Mapping[str, object], new: Mapping[str, object]) -> Iterator[ControlDifference]:
    for name in new:
        if name not in current:
            yield ControlDifference(f"{at}/{name}", ADDED)
        elif current[name] != new[name]:
            yield ControlDifference(f"{at}/{name}", CHANGED)
    yield from (ControlDifference(f"{at}/{name}", REMOVED) for name in current if name not in new)
    if [name for name in current if name in new] != [name for name in new if name in current]:
        yield ControlDifference(at, REORDERED)


def _lists(published: PolicySetPublished) -> dict[str, object]:
    """The word lists with their options, by name."""
    return {name: (phrases, published.term_options.get(name)) for name, phrases in published.terms.items()}


def _regions(regions: Sequence[Region]) -> dict[str, Region]:
    return {region.id: region for region in regions}


def _queues(region: Region) -> dict[str, Queue]:
    return {queue.id: queue for queue in region.queues}
