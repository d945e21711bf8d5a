"""The cases of one run: those of the items that it submitted and that wait for a reviewer.

Simulated reviewers choose only from them, so they never decide what somebody else has submitted to the same stack.
"""

from collections import defaultdict
from itertools import islice
from typing import Any

from deploy.local.accounting import POLICY_VERDICTS, Ledger
from piepowder.simulation import MAX_CHOICE
from piepowder.tally import RegionItem, Tally
from shared.contracts.envelope import Event, RecordId
from shared.contracts.events import CaseClosed, CaseOpened, CaseSuperseded, DecisionMade


class RunCases(Ledger):
    """A ledger that also has the waiting cases of the items in `tally`; implements `piepowder.simulation.CasePool`."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally
        self._own: defaultdict[str, dict[str, None]] = defaultdict(dict)
        # The items of cases that are not in the tally yet, by case: the verdict on a line may arrive after its case
        self._others: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._known = 0

    def add(self, region: str, event: Event[Any], record: RecordId) -> None:
        """Add an event of a region's topic."""
        super().add(region, event, record)
        match event.data:
            case CaseOpened(case_type="item", case_id=case_id) as opened if opened.verdict not in POLICY_VERDICTS:
                if not self.has_ended(region, case_id):
                    self._others[region][case_id] = opened.item_id
                    self._known = -1
            case DecisionMade(case_id=case_id) | CaseSuperseded(case_id=case_id) | CaseClosed(case_id=case_id):
                self.done(region, case_id)

    def count(self, region: str) -> int:
        """See `CasePool`."""
        self._assign()
        return len(self._own[region])

    def next(self, region: str) -> list[str]:
        """See `CasePool`. The returned cases go to the end, so that the next call returns others."""
        self._assign()
        own = self._own[region]
        chosen = list(islice(own, MAX_CHOICE))
        for case_id in chosen:
            del own[case_id]
            own[case_id] = None
        return chosen

    def done(self, region: str, case_id: str) -> None:
        """See `CasePool`."""
        self._own[region].pop(case_id, None)
        self._others[region].pop(case_id, None)

    def _assign(self) -> None:
        """Move the cases of items that are in the tally now to the run's own ones."""
        if self._known == len(self._tally.items):
            return
        self._known = len(self._tally.items)
        for region, others in self._others.items():
            own = [case_id for case_id, item_id in others.items() if RegionItem(item_id, region) in self._tally.items]
            for case_id in own:
                del others[case_id]
                self._own[region][case_id] = None
