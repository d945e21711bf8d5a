"""One Python function for all conditions of a policy set.

    def evaluate(submitted, terms, by_cel):
        item = submitted.item                     # the parts of the item that conditions read
        v_price_minor = price.amount_minor        # each variable once
        if not -BOUND <= v_price_minor <= BOUND: return None
        s_0 = lower_ascii(v_title)                # a costly value of several conditions, once
        failed = ()
        try: c_7 = v_scores['nudity'] >= 0.8      # a condition that can raise
        except Exception: c_7 = False; failed += (7,)
        return (v_kind == 'product', by_cel[0], …, c_7), failed

The function returns the result of every condition in the set's order, and the indexes of those that raised; their
result is False. It returns None if a number of the item is beyond `INT_BOUND`: then CEL evaluates all conditions.
`by_cel` has the results of the conditions that are not covered, in their order. Equal conditions are evaluated once.
"""

import ast
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from services.router.cel import code, translation
from services.router.cel.syntax import Call, Node, NotCovered, Select, parse
from services.router.cel.translation import Translation, full_name, local, parts, shareable
from services.router.cel.variables import GLOBALS, INT_BOUND, VARIABLES, parts_read
from shared.contracts.events import ItemSubmitted

Evaluate: TypeAlias = Callable[
    [ItemSubmitted, Sequence[str], Sequence[bool]], tuple[tuple[bool, ...], tuple[int, ...]] | None
]

_SCOPE: Final[Mapping[str, object]] = {**GLOBALS, **translation.GLOBALS, "Exception": Exception}


class Program(NamedTuple):
    """The function, the variables that it reads, and by index why a condition is not covered."""

    evaluate: Evaluate
    variables: frozenset[str]
    not_covered: Mapping[int, str]


def program(conditions: Sequence[str]) -> Program:
    """Translate conditions, which CEL has compiled, to one function."""
    nodes, not_covered = _covered(conditions)
    places: dict[Node, list[int]] = {}
    for index, node in nodes.items():
        places.setdefault(node, []).append(index)
    translated = Translation()
    body = [code.assign(name, translated.share(node, name)) for node, name in _shared(places)]
    results: list[ast.expr] = [code.expression(f"by_cel[{place}]") for place in range(len(not_covered))]
    by_index = dict(zip(not_covered, results, strict=True))
    for node, indexes in places.items():
        value = translated.condition(node)
        if _can_raise(node):
            name = f"c_{indexes[0]}"
            body.append(_guarded(name, value, indexes))
            value = code.name(name)
        elif len(indexes) > 1:
            name = f"c_{indexes[0]}"
            body.append(code.assign(name, value))
            value = code.name(name)
        by_index |= dict.fromkeys(indexes, value)
    values = ast.Tuple([by_index[index] for index in range(len(conditions))], ast.Load())
    start = [*_variables_read(translated.variables), code.assign("failed", code.expression("()"))]
    end = ast.Return(ast.Tuple([values, code.name("failed")], ast.Load()))
    function = code.define("evaluate", ["submitted", "terms", "by_cel"], [*start, *body, end])
    evaluate: Evaluate = code.run([*translated.loops, function], _SCOPE, "evaluate")
    return Program(evaluate, frozenset(translated.variables), not_covered)


def _covered(conditions: Sequence[str]) -> tuple[dict[int, Node], dict[int, str]]:
    """The trees of the covered conditions, and the reasons of the others, by index."""
    nodes: dict[int, Node] = {}
    not_covered: dict[int, str] = {}
    for index, condition in enumerate(conditions):
        try:
            node = parse(condition)
            Translation().condition(node)
        except NotCovered as reason:
            not_covered[index] = str(reason)
        else:
            nodes[index] = node
    return nodes, not_covered


def _shared(nodes: Iterable[Node]) -> list[tuple[Call, str]]:
    """The costly values in two or more conditions, the inner ones first, each with its name."""
    uses: Counter[Call] = Counter()
    for node in nodes:
        uses.update([*dict.fromkeys(one for one in parts(node) if isinstance(one, Call) and shareable(one))])
    repeated = [node for node, count in uses.items() if count > 1]
    return [(node, f"s_{number}") for number, node in enumerate(repeated)]


def _variables_read(variables: Collection[str]) -> Iterator[ast.stmt]:
    yield from parts_read(variables)
    for variable in (name for name in VARIABLES if name in variables):
        value = local(variable)
        yield code.assign(value, code.expression(VARIABLES[variable].source))
        if VARIABLES[variable].type == "int" and not VARIABLES[variable].is_length:
            outside = code.expression(f"not {-INT_BOUND} <= {value} <= {INT_BOUND}")
            yield ast.If(outside, [ast.Return(ast.Constant(None))], [])


def _can_raise(node: Node) -> bool:
    """True for a condition that reads a key or an index, or that has a macro."""
    return any(
        (isinstance(part, Select) and full_name(part) not in VARIABLES)
        or (isinstance(part, Call) and part.function in ("_[_]", ".exists", ".all"))
        for part in parts(node)
    )


def _guarded(name: str, value: ast.expr, indexes: Sequence[int]) -> ast.stmt:
    """`try: name = value`; an exception adds the indexes to `failed`."""
    raised = ast.Tuple([ast.Constant(index) for index in indexes], ast.Load())
    failed = ast.AugAssign(ast.Name("failed", ast.Store()), ast.Add(), raised)
    handler = ast.ExceptHandler(code.name("Exception"), None, [code.assign(name, ast.Constant(False)), failed])
    return ast.Try([code.assign(name, value)], [handler], [], [])
