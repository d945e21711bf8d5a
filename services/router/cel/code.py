"""Python code as trees: expressions of our own sources, assignments, functions.

Code is built from trees, never from texts, so a text of a policy can only become a constant. The compiled code has no
builtins and no names other than those that are given.
"""

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


@cache
def expression(source: str) -> ast.expr:
    """The tree of an expression; `source` is a text of this package, never a text of a policy."""
    return ast.parse(source, mode="eval").body


@cache
def names(source: str) -> frozenset[str]:
    """The names in an expression."""
    return frozenset(node.id for node in ast.walk(expression(source)) if isinstance(node, ast.Name))


def name(text: str) -> ast.expr:
    """The value of a local or global name."""
    return ast.Name(text, ast.Load())


def call(function: str | ast.expr, *arguments: ast.expr) -> ast.expr:
    """A call of a function, given by its name or as an expression."""
    return ast.Call(name(function) if isinstance(function, str) else function, list(arguments), [])


def assign(target: str, value: ast.expr) -> ast.stmt:
    """The statement `target = value`."""
    return ast.Assign([ast.Name(target, ast.Store())], value)


def define(function: str, parameters: Sequence[str], body: Sequence[ast.stmt]) -> ast.stmt:
    """The definition of a function; `function` and `parameters` are names of this package."""
    definition = ast.parse(f"def {function}({', '.join(parameters)}): pass").body[0]
    assert isinstance(definition, ast.FunctionDef)  # noqa: S101 - parsed above
    definition.body = list(body)
    return definition


def run(statements: Sequence[ast.stmt], scope: Mapping[str, object], function: str) -> Any:
    """Run definitions and return one of the functions; `scope` has all names that they can use."""
    module = ast.fix_missing_locations(ast.Module(list(statements), type_ignores=[]))
    defined: dict[str, Any] = {"__builtins__": {}, **scope}
    exec(compile(module, "<conditions>", "exec"), defined)  # noqa: S102 - names of this package and constants only
    return defined[function]
