"""The conditions of policies, in CEL (Common Expression Language), on `cel-expr-python`; nothing else here knows it.

Variables are declared flat and typed, so a condition with an unknown or mistyped name is refused when its policy is
loaded, with a caret under the place. All conditions of a set compile into one list expression, and only the variables
that it mentions are bound: binding is what costs. An error at run time poisons the whole list, so that item is
evaluated again condition by condition, and the ones that erred are told from those that did not hold.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings

from services.router.domain import Evaluation
from shared.contracts.events import Author, ItemSubmitted, Money, Seller, Trader

UNKNOWN: Final = -1

_NO_PRICE: Final = Money(amount_minor=UNKNOWN, currency="")
_NO_TRADER: Final = Trader(name="")
_NO_AUTHOR: Final = Author(id="")
_NO_SELLER: Final = Seller(id="", age_days=UNKNOWN, listings=UNKNOWN, rejected=UNKNOWN, rating=UNKNOWN)


class Variable(NamedTuple):
    """What a condition may mention: its CEL type, what it stands for, and how it is read."""

    type: str
    says: str
    read: Callable[[ItemSubmitted, Sequence[str]], object]


class Fault(NamedTuple):
    """A condition that cannot be used: which one of which policy, and why, with CEL's caret where there is one."""

    policy: int
    condition: int
    message: str


class Refused(Exception):  # noqa: N818 - the field's word
    """Conditions that cannot be used, all of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


def _or_unknown(number: float | None) -> float:
    return UNKNOWN if number is None else number


VARIABLES: Final[Mapping[str, Variable]] = {
    "kind": Variable("string", "`product`, `seller` or `content`", lambda s, _: s.kind),
    "platform": Variable("string", "the upstream platform", lambda s, _: s.platform),
    "subject_id": Variable("string", "the platform's own id", lambda s, _: s.subject_id),
    "markets": Variable("list(string)", "ISO 3166-1 alpha-2 codes", lambda s, _: s.item.markets),
    "market_count": Variable("int", "how many markets", lambda s, _: len(s.item.markets)),
    "language": Variable("string", "BCP 47; `und` when unknown", lambda s, _: s.item.language),
    "title": Variable("string", "", lambda s, _: s.item.title),
    "text": Variable("string", "", lambda s, _: s.item.text),
    "title_length": Variable("int", "characters", lambda s, _: len(s.item.title)),
    "text_length": Variable("int", "characters", lambda s, _: len(s.item.text)),
    "category": Variable("string", "a path with `/`; empty when unknown", lambda s, _: s.item.category),
    "brand": Variable("string", "empty when unknown", lambda s, _: s.item.brand),
    "gtin": Variable("string", "8 to 14 digits; empty when unknown", lambda s, _: s.item.gtin),
    "media_count": Variable("int", "pictures and videos", lambda s, _: len(s.item.media)),
    "attributes": Variable("map(string, string)", "by name", lambda s, _: s.item.attributes),
    "scores": Variable("map(string, double)", "upstream classifiers, 0 to 1, by name", lambda s, _: s.item.scores),
    "price.known": Variable("bool", "whether there is a price", lambda s, _: s.item.price is not None),
    "price.minor": Variable(
        "int", "minor units (cents); -1 when unknown", lambda s, _: (s.item.price or _NO_PRICE).amount_minor
    ),
    "price.currency": Variable(
        "string", "ISO 4217; empty when unknown", lambda s, _: (s.item.price or _NO_PRICE).currency
    ),
    "seller.known": Variable("bool", "whether there is a seller", lambda s, _: s.item.seller is not None),
    "seller.id": Variable("string", "empty when unknown", lambda s, _: (s.item.seller or _NO_SELLER).id),
    "seller.name": Variable("string", "empty when unknown", lambda s, _: (s.item.seller or _NO_SELLER).name),
    "seller.country": Variable(
        "string", "ISO 3166-1 alpha-2; empty when unknown", lambda s, _: (s.item.seller or _NO_SELLER).country
    ),
    "seller.age_days": Variable(
        "int", "-1 when unknown", lambda s, _: _or_unknown((s.item.seller or _NO_SELLER).age_days)
    ),
    "seller.listings": Variable(
        "int", "-1 when unknown", lambda s, _: _or_unknown((s.item.seller or _NO_SELLER).listings)
    ),
    "seller.rejected": Variable(
        "int", "rejected before; -1 when unknown", lambda s, _: _or_unknown((s.item.seller or _NO_SELLER).rejected)
    ),
    "seller.rating": Variable(
        "double", "-1.0 when unknown", lambda s, _: _or_unknown((s.item.seller or _NO_SELLER).rating)
    ),
    "trader.known": Variable(
        "bool", "whether a seller named who stands behind it", lambda s, _: s.item.trader is not None
    ),
    "trader.name": Variable("string", "empty when unknown", lambda s, _: (s.item.trader or _NO_TRADER).name),
    "trader.address": Variable("string", "empty when unknown", lambda s, _: (s.item.trader or _NO_TRADER).address),
    "trader.country": Variable(
        "string", "ISO 3166-1 alpha-2; empty when unknown", lambda s, _: (s.item.trader or _NO_TRADER).country
    ),
    "trader.register": Variable(
        "string", "the trade register; empty when unknown", lambda s, _: (s.item.trader or _NO_TRADER).register
    ),
    "trader.register_number": Variable(
        "string", "the entry in it; empty when unknown", lambda s, _: (s.item.trader or _NO_TRADER).register_number
    ),
    "trader.email": Variable("string", "empty when unknown", lambda s, _: (s.item.trader or _NO_TRADER).email),
    "trader.phone": Variable("string", "empty when unknown", lambda s, _: (s.item.trader or _NO_TRADER).phone),
    "trader.self_certification": Variable(
        "bool",
        "the word that only what complies with Union law is offered",
        lambda s, _: (s.item.trader or _NO_TRADER).self_certification,
    ),
    "author.known": Variable("bool", "whether content names its author", lambda s, _: s.item.author is not None),
    "author.id": Variable("string", "empty when unknown", lambda s, _: (s.item.author or _NO_AUTHOR).id),
    "author.name": Variable("string", "empty when unknown", lambda s, _: (s.item.author or _NO_AUTHOR).name),
    "links": Variable(
        "list(string)", "the subjects that content is about, `<platform>:<kind>:<id>`", lambda s, _: s.item.links
    ),
    "terms": Variable("list(string)", "names of the word lists met in title and text", lambda _, terms: terms),
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
    """The conditions of a policy set as one expression; a `domain.Conditions`.

    `policies` holds each policy's conditions. Raises Refused, with every fault, when one does not compile to a bool.
    """

    def __init__(self, policies: Sequence[Sequence[str]]) -> None:
        env = _environment(_DECLARED)
        faults: list[Fault] = []
        self._each: list[Any] = []
        for p, conditions in enumerate(policies):
            for c, condition in enumerate(conditions):
                try:
                    self._each.append(_compile_condition(env, condition))
                except ValueError as error:
                    faults.append(Fault(p, c, str(error)))
        if faults:
            raise Refused(faults)
        together = _together(condition for conditions in policies for condition in conditions)
        self._all = env.compile(together)
        self._reads = [(name, VARIABLES[name].read) for name in VARIABLES if _mentions(together, name)]

    @property
    def variables(self) -> list[str]:
        """The variables that the conditions mention; no other is bound."""
        return [name for name, _ in self._reads]

    def evaluate(self, submitted: ItemSubmitted, terms: Sequence[str]) -> Evaluation:
        """Which conditions hold for an item, and which cannot be evaluated."""
        bound = {name: read(submitted, terms) for name, read in self._reads}
        held = _value(self._all, bound)
        if isinstance(held, list):
            return Evaluation(tuple(held), _NO_ERRORS)
        values = [_value(expression, bound) for expression in self._each]
        errors = {index: str(value) for index, value in enumerate(values) if not isinstance(value, bool)}
        return Evaluation(tuple(value is True for value in values), errors)


_NO_ERRORS: Final[Mapping[int, str]] = {}


def _value(expression: Any, bound: Mapping[str, object]) -> object:
    """What the expression is for these variables; the sentence that says why not, when it cannot be evaluated."""
    try:
        return expression.eval(data=bound).plain_value()
    except RuntimeError as error:  # a value beyond 64 bits, or more steps than the evaluator's budget
        return str(error)


def _environment(variables: Mapping[str, Any]) -> Any:
    return cel.NewEnv(variables=variables, extensions=[ext_strings.ExtStrings()])


def _compile_condition(env: Any, condition: str) -> Any:
    if _MATCHES.search(_STRINGS_AND_COMMENTS.sub('""', condition)):
        raise ValueError(
            "matches() is not allowed: it would compile its pattern again for every item."
            ' Put the words into a list under `terms` and write `"<list>" in terms`.'
        )
    try:
        expression = env.compile(condition)
        env.compile(_together([condition]))
    except RuntimeError as error:
        raise ValueError(_readable(str(error))) from error
    if expression.return_type() != cel.Type.BOOL:
        raise ValueError(f"a condition is true or false, this is {expression.return_type().name().lower()}")
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
        text += "\nWhole numbers and decimals do not compare: money is in whole minor units, scores are decimals (1.0)."
    return text
