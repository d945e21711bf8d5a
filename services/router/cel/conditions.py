"""The conditions of a policy set, evaluated by one generated function and, where it has no result, by CEL.

The function (`program`) has the result of CEL or none, so the engine of a condition shows only in its cost. CEL
evaluates a condition if the function does not cover it (`slow`), or if it raises an exception there. CEL evaluates all
conditions of an item with a number that is so large that Python's integers could differ from CEL's.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

from services.router import metrics
from services.router.cel.engine import CelCondition, CelList
from services.router.cel.program import program
from services.router.cel.variables import VARIABLES, reader
from services.router.domain.routing import ConditionFault, Evaluation, InvalidConditions
from shared.contracts.events import ItemSubmitted

_NO_ERRORS: Final[Mapping[int, str]] = {}
_CONDITION_FALLBACKS: Final = metrics.CEL_FALLBACKS.labels("condition")
_NUMBER_FALLBACKS: Final = metrics.CEL_FALLBACKS.labels("number")
_FUNCTION_FALLBACKS: Final = metrics.CEL_FALLBACKS.labels("function")


class CelConditions:
    """The conditions of a policy set; implements `domain.routing.Conditions`.

    `policies` has the conditions of each policy. `slow` has, by index, why only CEL can evaluate a condition. `refused`
    has the conditions that must not be published (`memory`): an older version may have published them, so they do not
    make a set unusable, but fail for every item. Raises InvalidConditions with every condition that does not compile to
    a bool.
    """

    def __init__(self, policies: Sequence[Sequence[str]]) -> None:
        faults: list[ConditionFault] = []
        self.refused: Final[list[ConditionFault]] = []
        self._each: list[CelCondition] = []
        for p, conditions in enumerate(policies):
            for c, condition in enumerate(conditions):
                try:
                    compiled = CelCondition(condition)
                except ValueError as error:
                    faults.append(ConditionFault(p, c, str(error)))
                    continue
                if compiled.refusal:
                    self.refused.append(ConditionFault(p, c, compiled.refusal))
                self._each.append(compiled)
        if faults:
            raise InvalidConditions(faults)
        self._refusals = {index: one.refusal for index, one in enumerate(self._each) if one.refusal}
        self._evaluate, covered, self.slow = program([condition.text for condition in self._each])
        self._slow = CelList([self._each[index] for index in self.slow])
        bound_for_slow = self._slow.variables()
        self._read_slow = reader(bound_for_slow)
        self.variables: Final = [name for name in VARIABLES if name in covered or name in bound_for_slow]
        self._read = reader(self.variables)

    def evaluate(self, submitted: ItemSubmitted, terms: Sequence[str]) -> Evaluation:
        """Evaluate all conditions for an item and the word lists found in it."""
        by_cel: Sequence[bool] = ()
        slow_errors: Mapping[int, str] = _NO_ERRORS
        if self.slow:
            by_cel, slow_errors = self._slow.evaluate(self._read_slow(submitted, terms))
        try:
            evaluated = self._evaluate(submitted, terms, by_cel)
        except Exception:  # noqa: BLE001 - whatever it is, CEL has the result
            _FUNCTION_FALLBACKS.inc()
            return self.evaluate_by_cel(submitted, terms)
        if evaluated is None:
            _NUMBER_FALLBACKS.inc()
            return self.evaluate_by_cel(submitted, terms)
        held, failed = evaluated
        if not failed and not slow_errors:
            return Evaluation(held, self._refusals)
        if failed:
            _CONDITION_FALLBACKS.inc(len(failed))
        slow = [*self.slow]
        errors = self._refusals | {slow[index]: error for index, error in slow_errors.items()}
        results = [*held]
        bound = self._read(submitted, terms)
        for index in failed:
            value = self._each[index].evaluate(bound)
            results[index] = value is True
            if isinstance(value, str):
                errors[index] = value
        return Evaluation(tuple(results), dict(sorted(errors.items())))

    def evaluate_by_cel(self, submitted: ItemSubmitted, terms: Sequence[str]) -> Evaluation:
        """Evaluate all conditions by CEL; the result equals that of `evaluate`."""
        held, errors = self._all.evaluate(self._read(submitted, terms))
        return Evaluation(held, dict(sorted((self._refusals | errors).items())))

    @cached_property
    def _all(self) -> CelList:
        """All conditions in CEL; compiled at the first item that needs them."""
        return CelList(self._each)
