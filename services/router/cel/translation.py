"""Translates a condition into a Python expression with the same value.

One rule makes this safe: **if the Python expression has a value, CEL has the same value.** It need not have a value
where CEL has one: an exception (a missing key, for example) hands the condition over to CEL. So CEL's errors, and its
`&&` and `||`, which absorb an error on either side, need no counterpart here: Python evaluates from left to right, and
whatever it has concluded before an exception is what CEL concludes in any order.

Each construct is covered only if the rule is certain for it:

- Types are those of CEL, known before evaluation. Operands have equal types, so no int meets a double.
- int: every variable is within ±`INT_BOUND` (the program checks it), and the range of every result is computed here. A
  sum, difference or product that could leave 64 bits is not covered; neither are `/` and `%`.
- double: both languages have IEEE 754 binary64; the comparisons and `+`, `-`, `*` are equal. A division is not covered.
- string: both count and order code points (UTF-8 keeps their order).
- list, map: only membership, `size()`, `has()`, a key, a constant index, and the equality of lists of strings.
- `exists` and `all` are covered over strings, without another one inside; longer lists than `MAX_ELEMENTS` raise, so
  CEL's budget of steps decides.
"""

import ast
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from math import isinf
from operator import add, mul, sub
from typing import Final, NamedTuple, TypeAlias

from services.router.cel import code
from services.router.cel.syntax import Call, Identifier, ListLiteral, Literal, Node, NotCovered, Select, children
from services.router.cel.variables import INT_BOUND, VARIABLES

MAX_MACROS: Final = 8  # in a condition: together with MAX_ELEMENTS less than CEL's budget of 10,000 steps
MAX_ELEMENTS: Final = 1_000

BOOL, INT, DOUBLE, STRING = "bool", "int", "double", "string"
_LIST: Final = "list({})"
_STRINGS: Final = "list(string)"
_MAPS: Final = {"map(string, string)": STRING, "map(string, double)": DOUBLE}
_SCALARS: Final = (BOOL, INT, DOUBLE, STRING)
_ORDERED: Final = (INT, DOUBLE, STRING)
_MAX_INT: Final = 2**63 - 1
_ROOTS: Final = frozenset(variable.partition(".")[0] for variable in VARIABLES)
_UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TO_LOWER: Final = str.maketrans(_UPPER, _UPPER.lower())
_TO_UPPER: Final = str.maketrans(_UPPER.lower(), _UPPER)

_COMPARISONS: Final[Mapping[str, type[ast.cmpop]]] = {
    "_==_": ast.Eq, "_!=_": ast.NotEq, "_<_": ast.Lt, "_<=_": ast.LtE, "_>_": ast.Gt, "_>=_": ast.GtE,
}  # fmt: skip
_OPERATIONS: Final = {"_+_": add, "_-_": sub, "_*_": mul}
_ARITHMETIC: Final[Mapping[str, type[ast.operator]]] = {"_+_": ast.Add, "_-_": ast.Sub, "_*_": ast.Mult}


def lower_ascii(text: str) -> str:
    """CEL's `lowerAscii()`: only the letters A to Z change."""
    return text.lower() if text.isascii() else text.translate(_TO_LOWER)


def upper_ascii(text: str) -> str:
    """CEL's `upperAscii()`: only the letters a to z change."""
    return text.upper() if text.isascii() else text.translate(_TO_UPPER)


def few(elements: Collection[str]) -> Collection[str]:
    """The elements of a macro; raises OverflowError for more than `MAX_ELEMENTS`."""
    if len(elements) > MAX_ELEMENTS:
        raise OverflowError
    return elements


GLOBALS: Final[Mapping[str, object]] = {
    "few": few, "len": len, "lower_ascii": lower_ascii, "upper_ascii": upper_ascii,
}  # fmt: skip
"""The global names in translated expressions, beside the names of local variables."""


class Code(NamedTuple):
    """A Python expression and its CEL type; an int also has its smallest and its largest possible value."""

    type: str
    expression: ast.expr
    low: int = 0
    high: int = 0


def local(variable: str) -> str:
    """The name of the Python variable that has the value of a variable."""
    return f"v_{variable.replace('.', '_')}"


class Translation:
    """Translates the conditions of a set.

    `variables` collects the variables that were read, and `loops` the functions that the macros need. `shared` has, by
    node, the Python names of values that are computed once for an item; see `shareable`.
    """

    def __init__(self) -> None:
        self.variables: set[str] = set()
        self.loops: list[ast.stmt] = []
        self.shared: dict[Node, str] = {}

    def condition(self, node: Node) -> ast.expr:
        """The Python expression of a condition; raises NotCovered."""
        translator = _Translator(self.shared, len(self.loops))
        found = translator.translate(node)
        if found.type != BOOL:
            raise NotCovered(f"its type {found.type}")
        return self._kept(translator, found)

    def share(self, node: Call, name: str) -> ast.expr:
        """The Python expression of a shareable part of a covered condition, which is called `name` from now on."""
        translator = _Translator(self.shared, len(self.loops))
        expression = self._kept(translator, translator.translate(node))
        self.shared[node] = name
        return expression

    def _kept(self, translator: "_Translator", found: Code) -> ast.expr:
        self.variables |= translator.variables
        self.loops += translator.loops
        return found.expression


def shareable(node: Node) -> bool:
    """True for a costly function of variables and constants that always has a value."""
    return isinstance(node, Call) and node.function in _COSTLY and all(map(_has_value, node.arguments))


def parts(node: Node) -> Iterator[Node]:
    """The node and all nodes in it, the inner ones first."""
    for child in children(node):
        yield from parts(child)
    yield node


def _has_value(node: Node) -> bool:
    return isinstance(node, Literal) or full_name(node) in VARIABLES or shareable(node)


def full_name(node: Node) -> str | None:
    """`a.b` for the field `b` of the name `a`; None for other nodes."""
    if isinstance(node, Identifier):
        return node.name
    if isinstance(node, Select) and (operand := full_name(node.operand)) is not None:
        return f"{operand}.{node.field}"
    return None


class _Translator:
    """Translates one condition."""

    def __init__(self, shared: Mapping[Node, str], first_loop: int) -> None:
        self.variables: set[str] = set()
        self.loops: list[ast.stmt] = []
        self._first_loop = first_loop
        self._shared = shared
        self._macros = 0
        self._element: str | None = None  # the variable of the macro that is being translated

    def translate(self, node: Node) -> Code:
        """The Python expression of a node; raises NotCovered."""
        found = self._translate(node)
        if found.type == INT and not -_MAX_INT <= found.low <= found.high <= _MAX_INT:
            raise NotCovered("a number that may need more than 64 bits")
        return found

    def _translate(self, node: Node) -> Code:
        if isinstance(node, Literal):
            return _literal(node)
        if isinstance(node, ListLiteral):
            return self._list(node)
        if isinstance(node, Call):
            return self._call(node)
        return self._name_or_key(node)

    def _name_or_key(self, node: Identifier | Select) -> Code:
        if isinstance(node, Identifier) and node.name == self._element:
            return Code(STRING, code.name("element"))
        path = full_name(node)
        if path is not None and path in VARIABLES:
            return self._variable(path)
        if isinstance(node, Select):
            operand = self.translate(node.operand)
            if operand.type in _MAPS:
                return Code(_MAPS[operand.type], _subscript(operand, ast.Constant(node.field)))
        raise NotCovered(f"`{path or 'a field'}`")

    def _variable(self, name: str) -> Code:
        self.variables.add(name)
        variable = VARIABLES[name]
        low = 0 if variable.is_length else -INT_BOUND
        return Code(variable.type, code.name(local(name)), low, INT_BOUND)

    def _list(self, node: ListLiteral) -> Code:
        elements = [self.translate(element) for element in node.elements]
        types = {element.type for element in elements}
        if len(types) != 1 or types.isdisjoint(_SCALARS):
            raise NotCovered("a list that is empty or has elements of several types")
        return Code(_LIST.format(*types), ast.List([element.expression for element in elements], ast.Load()))

    def _call(self, node: Call) -> Code:
        if self._element is None and node in self._shared:
            return Code(_COSTLY[node.function], code.name(self._shared[node]))
        try:
            rule = _CALLS[node.function, len(node.arguments)]
        except KeyError:
            if node.function not in ("_&&_", "_||_"):
                raise NotCovered(f"`{node.function.strip('.@_')}`") from None
            rule = _Translator._logical
        return rule(self, node)

    def _operands(self, node: Call, *expected: Container[str]) -> list[Code]:
        """The operands of a call, which must have one of the `expected` types each."""
        found = [self.translate(argument) for argument in node.arguments]
        for operand, types in zip(found, expected, strict=True):
            if operand.type not in types:
                raise NotCovered(f"`{node.function.strip('.@_')}` of {operand.type}")
        return found

    def _logical(self, node: Call) -> Code:
        operands = self._operands(node, *[(BOOL,)] * len(node.arguments))
        operator = ast.And() if node.function == "_&&_" else ast.Or()
        return Code(BOOL, ast.BoolOp(operator, [operand.expression for operand in operands]))

    def _not(self, node: Call) -> Code:
        (operand,) = self._operands(node, (BOOL,))
        return Code(BOOL, ast.UnaryOp(ast.Not(), operand.expression))

    def _negative(self, node: Call) -> Code:
        (operand,) = self._operands(node, (INT, DOUBLE))
        return Code(operand.type, ast.UnaryOp(ast.USub(), operand.expression), -operand.high, -operand.low)

    def _conditional(self, node: Call) -> Code:
        condition, then, otherwise = self._operands(node, (BOOL,), _SCALARS, _SCALARS)
        _require_equal_types(then, otherwise)
        chosen = ast.IfExp(condition.expression, then.expression, otherwise.expression)
        return Code(then.type, chosen, min(then.low, otherwise.low), max(then.high, otherwise.high))

    def _comparison(self, node: Call) -> Code:
        types = (*_SCALARS, _STRINGS) if node.function in ("_==_", "_!=_") else _ORDERED
        left, right = self._operands(node, types, types)
        _require_equal_types(left, right)
        return _compared(left, _COMPARISONS[node.function](), right)

    def _arithmetic(self, node: Call) -> Code:
        types = _ORDERED if node.function == "_+_" else (INT, DOUBLE)
        left, right = self._operands(node, types, types)
        _require_equal_types(left, right)
        result = ast.BinOp(left.expression, _ARITHMETIC[node.function](), right.expression)
        bounds = _bounds(node.function, left, right) if left.type == INT else [0]
        return Code(left.type, result, min(bounds), max(bounds))

    def _in(self, node: Call) -> Code:
        element, collection = (self.translate(argument) for argument in node.arguments)
        if collection.type not in (_LIST.format(element.type), *(_MAPS if element.type == STRING else ())):
            raise NotCovered(f"`in` of {element.type} and {collection.type}")
        if isinstance(collection.expression, ast.List):
            members = collection.expression.elts
            constant = all(isinstance(one, ast.Constant) for one in members)
            collection = Code(collection.type, ast.Set(members) if constant else ast.Tuple(members, ast.Load()))
        return _compared(element, ast.In(), collection)

    def _size(self, node: Call) -> Code:
        (operand,) = self._operands(node, (STRING, _STRINGS, *_MAPS))
        return Code(INT, code.call("len", operand.expression), 0, INT_BOUND)

    def _index(self, node: Call) -> Code:
        operand, key = self._operands(node, (_STRINGS, *_MAPS), (INT, STRING))
        if operand.type == _STRINGS:
            if not isinstance(node.arguments[1], Literal) or key.type != INT:
                raise NotCovered("an index that is not a constant")
            return Code(STRING, _subscript(operand, key.expression))
        if key.type != STRING:
            raise NotCovered(f"a key of type {key.type}")
        return Code(_MAPS[operand.type], _subscript(operand, key.expression))

    def _has(self, node: Call) -> Code:
        (field,) = node.arguments
        if not isinstance(field, Select) or full_name(field) in VARIABLES:
            raise NotCovered("`has`")
        operand = self.translate(field.operand)
        if operand.type not in _MAPS:
            raise NotCovered(f"`has` of {operand.type}")
        return _compared(Code(STRING, ast.Constant(field.field)), ast.In(), operand)

    def _contains(self, node: Call) -> Code:
        text, part = self._operands(node, (STRING,), (STRING,))
        return _compared(part, ast.In(), text)

    def _starts_or_ends(self, node: Call) -> Code:
        text, part = self._operands(node, (STRING,), (STRING,))
        method = ast.Attribute(text.expression, node.function[1:].lower(), ast.Load())
        return Code(BOOL, code.call(method, part.expression))

    def _change_case(self, node: Call) -> Code:
        (text,) = self._operands(node, (STRING,))
        return Code(STRING, code.call(_CASES[node.function], text.expression))

    def _macro(self, node: Call) -> Code:
        """`list.exists(element, body)` and `list.all(element, body)`; over a map, the elements are its keys."""
        over, element, body = node.arguments
        macro = node.function[1:]
        if self._element is not None or self._macros == MAX_MACROS:
            raise NotCovered(f"`{macro}` inside another macro, or more than {MAX_MACROS} macros")
        if not isinstance(element, Identifier) or element.name in _ROOTS or element.name.startswith("_"):
            raise NotCovered(f"`{macro}` with an element of this name")
        collection = self.translate(over)
        if collection.type not in (_STRINGS, *_MAPS):
            raise NotCovered(f"`{macro}` over {collection.type}")
        self._macros += 1
        few = code.call("few", collection.expression)
        if (searched := _searched(node.function, element, body)) is not None:
            found = self.translate(searched)
            if found.type != STRING:
                raise NotCovered(f"`{macro}` that compares with {found.type}")
            operator = ast.In() if node.function == ".exists" else ast.NotIn()
            return _compared(found, operator, Code(collection.type, few))
        outside, self.variables = self.variables, set()
        self._element = element.name
        predicate = self.translate(body)
        self._element = None
        captured = [local(variable) for variable in sorted(self.variables)]
        self.variables |= outside
        if predicate.type != BOOL:
            raise NotCovered(f"`{macro}` with a body of type {predicate.type}")
        name = f"loop_{self._first_loop + len(self.loops)}"
        self.loops.append(_loop(name, captured, predicate.expression, stops_at=node.function == ".exists"))
        return Code(BOOL, code.call(name, few, *map(code.name, captured)))


_Rule: TypeAlias = Callable[[_Translator, Call], Code]
_CASES: Final = {".lowerAscii": "lower_ascii", ".upperAscii": "upper_ascii"}
_CALLS: Final[Mapping[tuple[str, int], _Rule]] = {
    ("!_", 1): _Translator._not,
    ("-_", 1): _Translator._negative,
    ("_?_:_", 3): _Translator._conditional,
    **{(operator, 2): _Translator._comparison for operator in _COMPARISONS},
    **{(operator, 2): _Translator._arithmetic for operator in _ARITHMETIC},
    ("@in", 2): _Translator._in,
    ("_[_]", 2): _Translator._index,
    ("size", 1): _Translator._size,
    (".size", 1): _Translator._size,
    ("has", 1): _Translator._has,
    (".contains", 2): _Translator._contains,
    (".startsWith", 2): _Translator._starts_or_ends,
    (".endsWith", 2): _Translator._starts_or_ends,
    **{(function, 1): _Translator._change_case for function in _CASES},
    (".exists", 3): _Translator._macro,
    (".all", 3): _Translator._macro,
}
_COSTLY: Final = {".lowerAscii": STRING, ".upperAscii": STRING, ".contains": BOOL}


def _literal(node: Literal) -> Code:
    if isinstance(node.value, float) and isinf(node.value):
        raise NotCovered("a number that is too large")
    bound = int(node.value) if node.type == INT else 0
    return Code(node.type, ast.Constant(node.value), bound, bound)


def _require_equal_types(left: Code, right: Code) -> None:
    if left.type != right.type:
        raise NotCovered(f"{left.type} together with {right.type}")


def _bounds(function: str, left: Code, right: Code) -> list[int]:
    """Values with the smallest and the largest possible result of an operation on two ints."""
    operate = _OPERATIONS[function]
    return [operate(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]


def _compared(left: Code, operator: ast.cmpop, right: Code) -> Code:
    return Code(BOOL, ast.Compare(left.expression, [operator], [right.expression]))


def _subscript(operand: Code, key: ast.expr) -> ast.expr:
    return ast.Subscript(operand.expression, key, ast.Load())


def _searched(macro: str, element: Identifier, body: Node) -> Node | None:
    """`x` of `list.exists(element, element == x)` and `list.all(element, element != x)`; None for other bodies.

    CEL evaluates `x` once for each element, so a macro in `x` would use CEL's budget of steps once for each.
    """
    if not isinstance(body, Call) or (macro, body.function) not in ((".exists", "_==_"), (".all", "_!=_")):
        return None
    others = [side for side in body.arguments if side != element]
    if len(others) != 1 or any(part == element or _is_macro(part) for part in parts(others[0])):
        return None
    return others[0]


def _is_macro(node: Node) -> bool:
    return isinstance(node, Call) and node.function in (".exists", ".all")


def _loop(name: str, captured: Sequence[str], predicate: ast.expr, *, stops_at: bool) -> ast.stmt:
    """A function that returns `stops_at` if the predicate has this value for one of the elements."""
    test = predicate if stops_at else ast.UnaryOp(ast.Not(), predicate)
    body: list[ast.stmt] = [ast.If(test, [ast.Return(ast.Constant(stops_at))], [])]
    loop = ast.For(ast.Name("element", ast.Store()), code.name("elements"), body, [])
    return code.define(name, ["elements", *captured], [loop, ast.Return(ast.Constant(not stops_at))])
