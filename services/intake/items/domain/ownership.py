"""Owners of markets according to the operating model in force."""

from collections.abc import Iterator, Sequence
from typing import Final

from shared.contracts.events import OperatingModelPublished
from shared.runtime.errors import Poison
from shared.validation.faults import Fault

_REMEMBERED: Final = 10_000


class MarketOwnership:
    """The owner of each market in an operating model; `served` are the regions that this process accepts items for.

    Raises Poison when two regions own the same market.
    """

    def __init__(self, model: OperatingModelPublished, served: Sequence[str]) -> None:
        self.id = model.id
        self._served = frozenset(served)
        self._regions = frozenset(region.id for region in model.regions)
        self.open_regions = self._served & self._regions
        self._owner: dict[str, str] = {}
        for region in model.regions:
            for market in region.markets:
                other = self._owner.setdefault(market, region.id)
                if other != region.id:
                    raise Poison(f"operating model {model.id}: {other} and {region.id} both own market {market}")
        self._remembered: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def has(self, region: str) -> bool:
        """True if the model has the region, which may own no market, and may be served elsewhere."""
        return region in self._regions

    def regions(self, markets: Sequence[str]) -> tuple[str, ...]:
        """The sorted regions that own `markets`; empty if the markets have faults."""
        return tuple(self.markets_by_region(markets))

    def markets_by_region(self, markets: Sequence[str]) -> dict[str, list[str]]:
        """The `markets` in their order, by the sorted regions that own them; empty if the markets have faults."""
        key = tuple(markets)
        remembered = self._remembered.get(key)
        if remembered is not None:
            return remembered
        if any(self.faults(key)):
            return {}
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        by_region: dict[str, list[str]] = {region: [] for region in sorted({self._owner[market] for market in key})}
        for market in key:
            by_region[self._owner[market]].append(market)
        self._remembered[key] = by_region
        return by_region

    def owner(self, market: str) -> str | None:
        """The region that owns a market, None if no region owns it."""
        return self._owner.get(market)

    def first_market_of(self, region: str, markets: Sequence[str]) -> int:
        """The index of the first of `markets` that `region` owns."""
        return next(index for index, market in enumerate(markets) if self._owner[market] == region)

    def faults(self, markets: Sequence[str]) -> Iterator[Fault]:
        """Every fault of an item's markets, with its pointer."""
        seen: set[str] = set()
        for index, market in enumerate(markets):
            pointer = f"/markets/{index}"
            owner = self._owner.get(market)
            if owner is None:
                upper = market.upper()
                if upper in self._owner:
                    yield Fault(pointer, f"{market!r} is not a market; write {upper!r}")
                else:
                    owned_markets = ", ".join(sorted(self._owner))
                    yield Fault(
                        pointer, f"no region owns market {market!r:.40}; the operating model has {owned_markets}"
                    )
            elif owner not in self._served:
                serves = ", ".join(sorted(self._served))
                yield Fault(
                    pointer, f"market {market!r} belongs to region {owner!r}; this service accepts items for {serves}"
                )
            if market in seen:
                yield Fault(pointer, f"market {market!r} is repeated")
            seen.add(market)
