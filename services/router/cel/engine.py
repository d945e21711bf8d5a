"""Google's CEL; the only module that knows `cel-expr-python`.

Variables are flat and typed, so a condition with an unknown or mistyped name is rejected when it is compiled, with a
caret under the position.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings

from services.router.cel import lexer, memory
from services.router.cel.variables import VARIABLES

_TYPES: Final = {
    "bool": cel.Type.BOOL,
    "int": cel.Type.INT,
    "double": cel.Type.DOUBLE,
    "string": cel.Type.STRING,
    "list(string)": cel.Type.List(cel.Type.STRING),
    "map(string, string)": cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
    "map(string, double)": cel.Type.Map(cel.Type.STRING, cel.Type.DOUBLE),
}
_DECLARED: Final = {name: _TYPES[variable.type] for name, variable in VARIABLES.items()}
_MAX_LIST: Final = 50_000  # characters; CEL compiles at most 100,000


class CelCondition:
    """A compiled condition; raises ValueError, for the policy's author, if it is not a valid condition."""

    def __init__(self, text: str) -> None:
        try:
            self._expression = _ENVIRONMENT.compile(text)
            _ENVIRONMENT.compile(_together([text]))
        except RuntimeError as error:
            raise ValueError(_readable(str(error))) from error
        if self._expression.return_type() != cel.Type.BOOL:
            kind = self._expression.return_type().name().lower()
            raise ValueError(f"a condition must be true or false, this is {kind}")
        reason = memory.refusal(text, adds_numbers=_adds_numbers(text))
        self.refusal = reason
        """Why the condition may not be published, with the remedy; it is then never evaluated, but fails."""
        self.text = "false" if reason else text
        """The condition that CEL evaluates."""
        self.alone = not reason and memory.needs_memory(text)

    def evaluate(self, bound: Mapping[str, object]) -> bool | str:
        """The result, or the message of the error if it cannot be evaluated."""
        if self.refusal:
            return self.refusal
        value = _value(self._expression, bound)
        return value if isinstance(value, bool) else str(value)

    def serialised(self) -> bytes:
        """CEL's tree of the condition: a `google.protobuf.Any` with a `cel.expr.CheckedExpr`."""
        serialised: bytes = self._expression.serialize()
        return serialised


class CelList:
    """Conditions that are evaluated together, as one list expression, or several if the text is too long for CEL.

    A runtime error makes a whole list fail; its conditions are then evaluated again one by one, which separates the
    failed conditions from the false ones.
    """

    def __init__(self, conditions: Sequence[CelCondition]) -> None:
        self._lists: list[tuple[str, Any, list[CelCondition]]] = []
        for part in _parts(conditions):
            text = _together(condition.text for condition in part)
            self._lists.append((text, _ENVIRONMENT.compile(text), part))

    def evaluate(self, bound: Mapping[str, object]) -> tuple[tuple[bool, ...], dict[int, str]]:
        """The result of each condition, and by index the error of those that cannot be evaluated (they are False)."""
        held: list[bool] = []
        errors: dict[int, str] = {}
        for _, expression, conditions in self._lists:
            values = _value(expression, bound)
            if not isinstance(values, list):
                values = [condition.evaluate(bound) for condition in conditions]
                errors |= {at: value for at, value in enumerate(values, len(held)) if isinstance(value, str)}
            held += [value is True for value in values]
        return tuple(held), errors

    def variables(self) -> list[str]:
        """The variables in the conditions: without one of them, a list does not compile."""
        lists = [(text, lexer.names(text)) for text, _, _ in self._lists]
        return [
            name
            for name in VARIABLES
            if any(used.issuperset(name.split(".")) and not _compiles_without(name, text) for text, used in lists)
        ]


def _value(expression: Any, bound: Mapping[str, object]) -> object:
    """The value of an expression, or the error message if it cannot be evaluated."""
    try:
        return expression.eval(data=bound).plain_value()
    except MemoryError:
        return "it needs too much memory"
    except Exception as error:  # noqa: BLE001 - a value beyond 64 bits, more steps than the evaluator's budget, or another
        return str(error)


def _environment(variables: Mapping[str, Any], config: Any = None) -> Any:
    return cel.NewEnv(variables=variables, extensions=[ext_strings.ExtStrings()], config=config)


_ENVIRONMENT: Final = _environment(_DECLARED)
_NUMBER_SUMS: Final = _environment(
    _DECLARED,
    cel.NewEnvConfigFromYaml(
        "stdlib: {exclude_functions: [{name: _+_, overloads: [{id: add_string}, {id: add_bytes}, {id: add_list}]}]}"
    ),
)
"""The environment without the sums of texts, bytes and lists."""


def _adds_numbers(condition: str) -> bool:
    """True if every `+` of a valid condition is one of numbers, times or durations."""
    if "+" not in condition:
        return True
    if memory.has_mixed_types(condition):
        return False
    try:
        _NUMBER_SUMS.compile(condition)
    except RuntimeError:
        return False
    return True


def _parts(conditions: Sequence[CelCondition]) -> Iterator[list[CelCondition]]:
    """The conditions in parts whose lists are short enough for CEL, and do not need much memory together."""
    part: list[CelCondition] = []
    length = 0
    for condition in conditions:
        if part and (condition.alone or part[0].alone or length + len(condition.text) > _MAX_LIST):
            yield part
            part, length = [], 0
        part.append(condition)
        length += len(condition.text) + len("(\n), ")
    if part:
        yield part


def _together(conditions: Iterable[str]) -> str:
    return "[" + ", ".join(f"({condition}\n)" for condition in conditions) + "]"


def _compiles_without(name: str, expression: str) -> bool:
    try:
        _environment({other: kind for other, kind in _DECLARED.items() if other != name}).compile(expression)
    except RuntimeError:
        return False
    return True


def _readable(message: str) -> str:
    text = message.removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]").removeprefix("ERROR: ")
    text = text.replace("<input>:", "").replace(" (in container '')", "")
    if "'(int, double)'" in text or "'(double, int)'" in text:
        text += "\nWhole and decimal numbers do not compare: money is in whole minor units, scores are decimals (1.0)."
    return text
