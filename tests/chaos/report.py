"""The report of a run: faults and recoveries, load, stalls, violations."""

import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import NamedTuple

from tests.chaos.checker.facts import Facts
from tests.chaos.checker.history import History
from tests.chaos.checker.restores import count_losses
from tests.chaos.checker.violation import Violation
from tests.chaos.faults import Planned
from tests.chaos.load import Tally

_SHOWN = 12


class Injected(NamedTuple):
    """A fault that was caused. `recovery` is the time in seconds from its end until an item was processed completely,
    or None."""

    planned: Planned
    at: float
    lasted: float
    recovery: float | None


class Report(NamedTuple):
    """The result of a run. `stall` and `seconds`, the duration of the load, are in seconds."""

    seed: int
    seconds: float
    rate: float
    tally: Tally
    others: Mapping[str, Counter[str]]
    stall: float
    injected: Sequence[Injected]
    skipped: Sequence[str]
    settled: float
    violations: Sequence[Violation]
    history: History

    @property
    def passed(self) -> bool:
        """True if all promises held and the system recovered from every fault."""
        return not self.violations and all(one.recovery is not None for one in self.injected)

    def __str__(self) -> str:
        return "\n".join([*self._faults(), "", *self._load(), "", *self._facts(), "", *self._verdict()])

    def _faults(self) -> list[str]:
        lines = [f"seed {self.seed}: {len(self.injected)} faults in {self.seconds:.0f} s", ""]
        lines += ["| at s | fault | lasted s | recovered after s |", "| ---: | --- | ---: | ---: |"]
        for one in self.injected:
            recovery = "NOT" if one.recovery is None else f"{one.recovery:.1f}"
            what = f"{one.planned.fault} {one.planned.victim}".strip()
            lines.append(f"| {one.at:.0f} | {what} | {one.lasted:.1f} | {recovery} |")
        return [*lines, *(f"skipped: {why}" for why in self.skipped)]

    def _load(self) -> list[str]:
        tally = self.tally
        times = sorted(tally.latencies)
        cuts = quantiles(times, n=1000) if len(times) > 1 else [0.0] * 999
        counters = {"reviews": tally.reviews, "withdrawals": tally.withdrawals, "complaints": tally.complaints}
        unsent = f"{tally.given_up} calls given up, {tally.not_sent} items not sent"
        answers = _counts(tally.statuses)
        parts = f"p50 {cuts[499]:.3f} s, p99 {cuts[989]:.2f} s, p99.9 {cuts[998]:.2f} s"
        return [
            f"load: {self.rate:g} arrivals/s, {tally.intended} items due, {unsent}; responses {answers}",
            f"latency from the due time to acceptance: {parts}; longest stall: {self.stall:.1f} s",
            *(f"{what}: {_counts(counter)}" for what, counter in {**counters, **self.others}.items()),
        ]

    def _facts(self) -> list[str]:
        history = self.history
        stages = Counter(record.topic.split(".")[1] for record in history.records)
        decisions = Counter(
            "policy" if row.automated else "people" for cell in history.cells.values() for row in cell.decisions
        )
        states = Counter(row.state for cell in history.cells.values() for row in cell.cases)
        logged = sum(len(cell.log) for cell in history.cells.values())
        intake = history.intake
        asked = Counter(row.state for row in intake.requests)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # in KiB on Linux
        return [
            f"records: {dict(stages)}; planted: {len(history.planted)}; audited: {logged}",
            f"cases: {dict(states)}; decided by {dict(decisions)}",
            f"requests: {dict(asked)}; clients: {len(intake.clients)} with {len(intake.keys)} keys",
            *self._restores(),
            f"memory of this process: {memory} MiB at most",
        ]

    def _restores(self) -> list[str]:
        """The losses of the restores of decision's database, as lines; none without such a restore."""
        if not any(note.kind == "restored" and "decision" in note.facts["database"] for note in self.history.notes):
            return []
        return [f"decision: {_counts(count_losses(Facts(self.history)))}"]

    def _verdict(self) -> list[str]:
        settled = f"checked {self.settled:.1f} s after the load ended"
        if not self.violations:
            return [f"{settled}; 0 violations"]
        titles = Counter(f"promise {v.promise}: {v.title.split(':')[0][:90]}" for v in self.violations)
        summary = [f"  {n} x {title}" for title, n in titles.most_common(_SHOWN)]
        shown = [str(violation) for violation in self.violations[:_SHOWN]]
        return [f"{settled}; {len(self.violations)} VIOLATION(S)", *summary, *shown]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{what}: {n}" for what, n in sorted(counter.items()))
