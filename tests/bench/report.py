"""The figures and their Markdown tables, which can be read on a screen and pasted into a page."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

import msgspec

WARM: Final = 3
"""First rounds that are not counted: for some seconds Kafka costs twice as much, until its code is compiled."""
_SMALLEST_SHARE: Final = 0.01
_HEAD: Final = ("figure", "measured", "floor", "ratio", "by CPU", "mark", "met", "next", "CPU µs an item", "peak MB")


class Round(msgspec.Struct, frozen=True):
    """One round of a stage or of a floor: `items` in `seconds`, and the processor seconds of each process."""

    items: int
    seconds: float
    cpu: Mapping[str, float] = {}

    @property
    def rate(self) -> float:
        return self.items / self.seconds


class Mark(msgspec.Struct, frozen=True):
    """A mark that a figure must reach: `at_least` a ratio (or a rate), or `below` a number of `unit`."""

    bound: float
    unit: str = ""
    below: bool = False

    def met(self, value: float) -> bool:
        return value < self.bound if self.below else value >= self.bound

    def __str__(self) -> str:
        return f"{'<' if self.below else '≥'} {self.bound:,g} {self.unit}".rstrip()


class Cost(msgspec.Struct, kw_only=True, frozen=True):
    """The bytes that an item adds: on topics (compressed), in the WAL, in tables and their indexes.

    `batch_items` is the average number of items in a batch, and `statements` the number of statements for a batch.
    """

    topics: Mapping[str, float]
    wal: float
    tables: Mapping[str, tuple[float, float]]
    batch_items: float
    statements: float


class Figure(msgspec.Struct, kw_only=True):
    """One row: the measured values of the rounds in `unit`, and the floor in the same unit, if there is one.

    `cost` and `parts` (shares of the service's processor time) are known if they were examined.
    """

    name: str
    unit: str
    values: Sequence[float]
    floors: Sequence[float] = ()
    mark: Mark | None = None
    next: Mark | None = None
    cpu: Mapping[str, float] = {}
    floor_cpu: Mapping[str, float] = {}
    peak: Mapping[str, float] = {}
    cost: Cost | None = None
    parts: Mapping[str, float] = {}

    @property
    def measured(self) -> float:
        return median(self.values)

    @property
    def ratio(self) -> float | None:
        return median(self.values) / median(self.floors) if self.floors else None

    @property
    def ratio_by_cpu(self) -> float | None:
        """The floor's processor time ÷ the stage's, of the first process of each: a busy machine changes it little."""
        stage, floor = next(iter(self.cpu.values()), 0.0), next(iter(self.floor_cpu.values()), 0.0)
        return floor / stage if stage and floor else None

    @property
    def judged(self) -> float:
        """The value that is compared with a mark: the ratio if there is a floor, otherwise the measured value."""
        return self.measured if self.ratio is None else self.ratio

    def cells(self) -> list[str]:
        """The row's cells, in the order of the table's head."""
        return [
            self.name,
            f"{_spread(self.values)} {self.unit}",
            f"{_spread(self.floors)} {self.unit}" if self.floors else "",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.ratio_by_cpu is None else f"{self.ratio_by_cpu:.2f}",
            str(self.mark or ""),
            "" if self.mark is None else ("yes" if self.mark.met(self.judged) else "**no**"),
            "" if self.next is None else f"{self.next} {'(met)' if self.next.met(self.judged) else '(not yet)'}",
            _listed(self.cpu) + (f" (floor: {_listed(self.floor_cpu)})" if self.floor_cpu else ""),
            _listed(self.peak),
        ]


def of_rounds(
    name: str,
    unit: str,
    stage: Sequence[Round],
    floor: Sequence[Round],
    *,
    mark: Mark | None = None,
    next: Mark | None = None,  # noqa: A002 - the column's name
    peak: Mapping[str, float],
) -> Figure:
    """A figure in items per second, with the processor time per item of each process on either side."""
    return Figure(
        name=name,
        unit=unit,
        values=[one.rate for one in stage],
        floors=[one.rate for one in floor],
        mark=mark,
        next=next,
        cpu=cpu_an_item(stage),
        floor_cpu=cpu_an_item(floor),
        peak=peak,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); `values` not empty."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [list(_HEAD), ["---"] * len(_HEAD), *(figure.cells() for figure in figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def costs(figures: Sequence[Figure]) -> str:
    """The cost of an item as a Markdown table; empty if nothing was measured."""
    rows = [(figure.name, figure.cost) for figure in figures if figure.cost is not None]
    if not rows:
        return ""
    head = (
        "an item of",
        "bytes on topics",
        "bytes of WAL",
        "bytes of tables + indexes",
        "items a batch",
        "statements a batch",
    )
    lines = [head, ["---"] * len(head)]
    for name, cost in rows:
        tables = sorted(cost.tables.items(), key=lambda one: -sum(one[1]))
        lines.append(
            [
                name,
                _listed({topic.removeprefix("piepowder."): size for topic, size in cost.topics.items()}),
                f"{cost.wal:,.0f}" if cost.wal else "",
                ", ".join(f"{table} {own:,.0f} + {indexes:,.0f}" for table, (own, indexes) in tables),
                f"{cost.batch_items:,.0f}" if cost.batch_items else "",
                f"{cost.statements:,.1f}" if cost.statements else "",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parts(figure: Figure) -> str:
    """The processor time of a service as a Markdown table: parts of more than a hundredth, then the rest."""
    own = next(iter(figure.cpu.values()), 0.0)
    shown = {part: share for part, share in figure.parts.items() if share >= _SMALLEST_SHARE}
    shown["all else"] = 1.0 - sum(shown.values())
    lines = [f"| {part} | {share:.0%} | {share * own:.1f} |" for part, share in shown.items()]
    return "\n".join(["| part | share | µs an item |", "| --- | --- | --- |", *lines])


def cpu_an_item(rounds: Sequence[Round]) -> dict[str, float]:
    """Microseconds of processor time per item, by process: the median of the rounds."""
    names = {name: None for one in rounds for name in one.cpu}
    return {name: median(one.cpu.get(name, 0.0) * 1e6 / one.items for one in rounds) for name in names}


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in values.items())


def _spread(values: Sequence[float]) -> str:
    middle, low, high = median(values), min(values), max(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 3
    if len(values) == 1:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"
