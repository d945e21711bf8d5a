"""Conditions of policies in CEL (Common Expression Language); the only module that knows `cel-expr-python`.

Variables are flat and typed, so a condition with an unknown or mistyped name is rejected when its policy set is
compiled, with a caret under the position. All conditions of a set compile into one list expression, and only the
variables in it are bound, because binding is the main cost. A runtime error makes the whole list fail; that item is
then evaluated again condition by condition, which separates the failed conditions from the false ones.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings

from services.router.domain.routing import ConditionFault, Evaluation, InvalidConditions
from shared.contracts.events import Author, ItemSubmitted, Money, Seller, Trader

UNKNOWN: Final = -1

_NO_PRICE: Final = Money(amount_minor=UNKNOWN, currency="")
_NO_TRADER: Final = Trader(name="")
_NO_AUTHOR: Final = Author(id="")
_NO_SELLER: Final = Seller(id="", age_days=UNKNOWN, listings=UNKNOWN, rejected=UNKNOWN, rating=UNKNOWN)


class Variable(NamedTuple):
    """A variable for conditions: its CEL type, its description, and how to read it from an item and its terms."""

    type: str
    description: str
    read: Callable[[ItemSubmitted, Sequence[str]], object]


def _or_unknown(number: float | None) -> float:
    return UNKNOWN if number is None else number


VARIABLES: Final[Mapping[str, Variable]] = {
    "kind": Variable("string", "`product`, `seller` or `content`", lambda s, _: s.kind),
    "platform": Variable("string", "the upstream platform", lambda s, _: s.platform),
    "subject_id": Variable("string", "the platform's id of the subject", lambda s, _: s.subject_id),
    "markets": Variable("list(string)", "ISO 3166-1 alpha-2 codes", lambda s, _: s.item.markets),
    "market_count": Variable("int", "number of markets", lambda s, _: len(s.item.markets)),
    "language": Variable("string", "BCP 47; `und` if unknown", lambda s, _: s.item.language),
    "title": Variable("string", "", lambda s, _: s.item.title),
    "text": Variable("string", "", lambda s, _: s.item.text),
    "title_length": Variable("int", "characters", lambda s, _: len(s.item.title)),
    "text_length": Variable("int", "characters", lambda s, _: len(s.item.text)),
    "category": Variable("string", "path with `/`; empty if unknown", lambda s, _: s.item.category),
    "brand": Variable("string", "empty if unknown", lambda s, _: s.item.brand),
    "gtin": Variable("string", "8 to 14 digits; empty if unknown", lambda s, _: s.item.gtin),
    "media_count": Variable("int", "number of pictures and videos", lambda s, _: len(s.item.media)),
    "attributes": Variable("map(string, string)", "by name", lambda s, _: s.item.attributes),
    "scores": Variable("map(string, double)", "of upstream classifiers, 0 to 1, by name", lambda s, _: s.item.scores),
    "price.known": Variable("bool", "true if there is a price", lambda s, _: s.item.price is not None),
    "price.minor": Variable(
        "int", "minor units (cents); -1 if unknown", lambda s, _: (s.item.price or _NO_PRICE).amount_minor
    ),
    "price.currency": Variable(
        "string", "ISO 4217; empty if unknown", lambda s, _: (s.item.price or _NO_PRICE).currency
    ),
    "seller.known": Variable("bool", "true if there is a seller", lambda s, _: s.item.seller is not None),
    "seller.id": Variable("string", "empty if unknown", lambda s, _: (s.item.seller or _NO_SELLER).id),
    "seller.name": Variable("string", "empty if unknown", lambda s, _: (s.item.seller or _NO_SELLER).name),
    "seller.country": Variable(
        "string", "ISO 3166-1 alpha-2; empty if unknown", lambda s, _: (s.item.seller or _NO_SELLER).country
    ),
    "seller.age_days": Variable(
        "int", "-1 if unknown", lambda s, _: _or_unknown((s.item.seller or _NO_SELLER).age_days)
    ),
    "seller.listings": Variable(
        "int", "-1 if unknown", lambda s, _: _or_unknown((s.item.seller or _NO_SELLER).listings)
    ),
    "seller.rejected": Variable(
        "int",
        "earlier rejections; -1 if unknown",
        lambda s, _: _or_unknown((s.item.seller or _NO_SELLER).rejected),
    ),
    "seller.rating": Variable(
        "double", "-1.0 if unknown", lambda s, _: _or_unknown((s.item.seller or _NO_SELLER).rating)
    ),
    "trader.known": Variable("bool", "true if the seller names a trader", lambda s, _: s.item.trader is not None),
    "trader.name": Variable("string", "empty if unknown", lambda s, _: (s.item.trader or _NO_TRADER).name),
    "trader.address": Variable("string", "empty if unknown", lambda s, _: (s.item.trader or _NO_TRADER).address),
    "trader.country": Variable(
        "string", "ISO 3166-1 alpha-2; empty if unknown", lambda s, _: (s.item.trader or _NO_TRADER).country
    ),
    "trader.register": Variable(
        "string", "trade register; empty if unknown", lambda s, _: (s.item.trader or _NO_TRADER).register
    ),
    "trader.register_number": Variable(
        "string",
        "its number there; empty if unknown",
        lambda s, _: (s.item.trader or _NO_TRADER).register_number,
    ),
    "trader.email": Variable("string", "empty if unknown", lambda s, _: (s.item.trader or _NO_TRADER).email),
    "trader.phone": Variable("string", "empty if unknown", lambda s, _: (s.item.trader or _NO_TRADER).phone),
    "trader.self_certification": Variable(
        "bool",
        "the trader commits to offer only goods that comply with EU law",
        lambda s, _: (s.item.trader or _NO_TRADER).self_certification,
    ),
    "author.known": Variable("bool", "true if the content has an author", lambda s, _: s.item.author is not None),
    "author.id": Variable("string", "empty if unknown", lambda s, _: (s.item.author or _NO_AUTHOR).id),
    "author.name": Variable("string", "empty if unknown", lambda s, _: (s.item.author or _NO_AUTHOR).name),
    "links": Variable("list(string)", "subjects of the content, `<platform>:<kind>:<id>`", lambda s, _: s.item.links),
    "terms": Variable("list(string)", "names of the word lists found in title and text", lambda _, terms: terms),
}

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
_STRINGS_AND_COMMENTS: Final = re.compile(r"""//[^\n]*|[rRbB]{0,2}("{3}|'{3}|"|').*?(?<!\\)\1""", re.DOTALL)
_MATCHES: Final = re.compile(r"\bmatches\s*\(")


class CelConditions:
    """The conditions of a policy set as one expression; implements `domain.routing.Conditions`.

    `policies` has the conditions of each policy. Raises InvalidConditions with every condition that does not compile
    to a bool.
    """

    def __init__(self, policies: Sequence[Sequence[str]]) -> None:
        env = _environment(_DECLARED)
        faults: list[ConditionFault] = []
        self._each: list[Any] = []
        for p, conditions in enumerate(policies):
            for c, condition in enumerate(conditions):
                try:
                    self._each.append(_compile_condition(env, condition))
                except ValueError as error:
                    faults.append(ConditionFault(p, c, str(error)))
        if faults:
            raise InvalidConditions(faults)
        together = _together(condition for conditions in policies for condition in conditions)
        self._all = env.compile(together)
        self._reads = [(name, VARIABLES[name].read) for name in VARIABLES if _mentions(together, name)]

    @property
    def variables(self) -> list[str]:
        """The variables in the conditions; only these are bound."""
        return [name for name, _ in self._reads]

    def evaluate(self, submitted: ItemSubmitted, terms: Sequence[str]) -> Evaluation:
        """Evaluate all conditions for an item and the word lists found in it."""
        bound = {name: read(submitted, terms) for name, read in self._reads}
        held = _value(self._all, bound)
        if isinstance(held, list):
            return Evaluation(tuple(held), _NO_ERRORS)
        values = [_value(expression, bound) for expression in self._each]
        errors = {index: str(value) for index, value in enumerate(values) if not isinstance(value, bool)}
        return Evaluation(tuple(value is True for value in values), errors)


_NO_ERRORS: Final[Mapping[int, str]] = {}


def _value(expression: Any, bound: Mapping[str, object]) -> object:
    """The value of an expression, or the error message if it cannot be evaluated."""
    try:
        return expression.eval(data=bound).plain_value()
    except RuntimeError as error:  # a value beyond 64 bits, or more steps than the evaluator's budget
        return str(error)


def _environment(variables: Mapping[str, Any]) -> Any:
    return cel.NewEnv(variables=variables, extensions=[ext_strings.ExtStrings()])


def _compile_condition(env: Any, condition: str) -> Any:
    if _MATCHES.search(_STRINGS_AND_COMMENTS.sub('""', condition)):
        raise ValueError(
            "matches() is not allowed: it would compile its pattern for every item."
            ' Add a word list under `terms` and write `"<list>" in terms`.'
        )
    try:
        expression = env.compile(condition)
        env.compile(_together([condition]))
    except RuntimeError as error:
        raise ValueError(_readable(str(error))) from error
    if expression.return_type() != cel.Type.BOOL:
        raise ValueError(f"a condition must be true or false, this is {expression.return_type().name().lower()}")
    return expression


def _together(conditions: Iterable[str]) -> str:
    return "[" + ", ".join(f"({condition}\n)" for condition in conditions) + "]"


def _mentions(expression: str, name: str) -> bool:
    if name not in expression:
        return False
    try:
        _environment({other: kind for other, kind in _DECLARED.items() if other != name}).compile(expression)
    except RuntimeError:
        return True
    return False


def _readable(message: str) -> str:
    text = message.removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]").removeprefix("ERROR: ")
    text = text.replace("<input>:", "").replace(" (in container '')", "")
    if "'(int, double)'" in text or "'(double, int)'" in text:
        text += "\nWhole and decimal numbers do not compare: money is in whole minor units, scores are decimals (1.0)."
    return text
