"""What a publication would change of what is in force, as a person reads it: names and what becomes of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from shared.contracts.events import OperatingModelPublished, PolicySetPublished, Queue, Region

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"
REORDERED: Final = "reordered"  # the same, in another order; of policies, the first among equals gives the queue

_OTHERS: Final = [name for name in Region.__struct_fields__ if name not in ("id", "markets", "queues")]


class Difference(msgspec.Struct, frozen=True):
    """`what`, such as `policies/weapons` or `regions/eu/queues/general`, would be `added`, `removed`, `changed` or
    `reordered`."""

    what: str
    how: str


def of_policy_sets(now: PolicySetPublished | None, then: PolicySetPublished) -> list[Difference]:
    """What `then` changes of `now`, which is None where no policy set is in force."""
    if now is None:
        return [Difference("policy_set", ADDED)]
    found = [*_of_named("terms", now.terms, then.terms)]
    found += _of_named("policies", {p.id: p for p in now.policies}, {p.id: p for p in then.policies})
    if now.default_verdict != then.default_verdict:
        found.append(Difference("default_verdict", CHANGED))
    return found


def of_models(now: OperatingModelPublished | None, then: OperatingModelPublished) -> list[Difference]:
    """What `then` changes of `now`, which is None where no operating model is in force."""
    if now is None:
        return [Difference("operating_model", ADDED)]
    before, after = _by_id(now.regions), _by_id(then.regions)
    found: list[Difference] = []
    for difference in _of_named("regions", before, after):
        if difference.how == CHANGED:
            name = difference.what.removeprefix("regions/")
            found += _of_regions(difference.what, before[name], after[name])
        else:
            found.append(difference)
    return found


def _of_regions(at: str, now: Region, then: Region) -> Iterator[Difference]:
    yield from _of_named(f"{at}/markets", dict.fromkeys(now.markets), dict.fromkeys(then.markets))
    yield from _of_named(f"{at}/queues", _queues(now), _queues(then))
    for name in _OTHERS:
        if getattr(now, name) != getattr(then, name):
            yield Difference(f"{at}/{name}", CHANGED)


def _of_named(at: str, now: Mapping[str, object], then: Mapping[str, object]) -> Iterator[Difference]:
    for name in then:
        if name not in now:
            yield Difference(f"{at}/{name}", ADDED)
        elif now[name] != then[name]:
            yield Difference(f"{at}/{name}", CHANGED)
    yield from (Difference(f"{at}/{name}", REMOVED) for name in now if name not in then)
    if [name for name in now if name in then] != [name for name in then if name in now]:
        yield Difference(at, REORDERED)


def _by_id(regions: Sequence[Region]) -> dict[str, Region]:
    return {region.id: region for region in regions}


def _queues(region: Region) -> dict[str, Queue]:
    return {queue.id: queue for queue in region.queues}
