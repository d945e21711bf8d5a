"""The syntax of conditions: a part of CEL's grammar, as a tree.

The part is small on purpose. CEL has compiled a condition before it is parsed here, so the condition is valid, and the
only question is its meaning. A condition with any other token or construct is not covered, and CEL evaluates it.
Precedence and associativity are those of CEL's grammar (cel-spec, doc/langdef.md, Syntax). The parser (LALR) keeps its
own stack, and trees have at most `MAX_DEPTH` levels, so no text exhausts Python's stack.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, TypeAlias

import msgspec
from lark import Lark, Token, Transformer, v_args
from lark.exceptions import LarkError, UnexpectedInput

MAX_LENGTH: Final = 2_000  # characters
MAX_DEPTH: Final = 40

GRAMMAR: Final = r"""
?expr: either | either "?" either ":" expr          -> conditional
?either: both | both ("||" both)+                   -> or_
?both: relation | relation ("&&" relation)+         -> and_
?relation: sum
         | relation (COMPARISON | IN) sum           -> binary
?sum: product
    | sum (PLUS | MINUS) product                    -> binary
?product: unary
        | product FACTOR unary                      -> binary
?unary: member
      | "!" unary                                   -> not_
      | MINUS unary                                 -> negative
?member: primary
       | member "." NAME                            -> select
       | member "." NAME "(" arguments ")"          -> method
       | member "[" expr "]"                        -> index
?primary: NAME                                      -> name
        | NAME "(" arguments ")"                    -> function
        | "(" expr ")"
        | "[" arguments "]"                         -> list_literal
        | TRUE                                      -> boolean
        | FALSE                                     -> boolean
        | INT                                       -> integer
        | FLOAT                                     -> decimal
        | STRING                                    -> string
arguments: (expr ("," expr)* ","?)?

TRUE: "true"
FALSE: "false"
IN: "in"
COMPARISON: "==" | "!=" | "<=" | ">=" | "<" | ">"
PLUS: "+"
MINUS: "-"
FACTOR: "*" | "/" | "%"
NAME: /[_a-zA-Z][_a-zA-Z0-9]*/
INT: /0|[1-9][0-9]*/
FLOAT.2: /[0-9]{0,20}\.[0-9]{1,20}([eE][+-]?[0-9]{1,2})?|[0-9]{1,20}[eE][+-]?[0-9]{1,2}/
STRING: /"([^"\\\r\n]|\\["'\\nrt]|\\u[0-9a-fA-F]{4})*"/ | /'([^'\\\r\n]|\\["'\\nrt]|\\u[0-9a-fA-F]{4})*'/
SPACE: /[ \t\n\f\r]+/
COMMENT.2: /\/\/[^\n]*/
%ignore SPACE
%ignore COMMENT
"""

_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t"}


class NotCovered(Exception):  # noqa: N818 - named after the fact, not after an error
    """A condition that only CEL evaluates; the message names the construct for the policy's author."""


class Literal(msgspec.Struct, frozen=True):
    """A constant of the type `bool`, `int`, `double` or `string`."""

    type: str
    value: bool | float | str


class Identifier(msgspec.Struct, frozen=True):
    """A name, or the first part of one."""

    name: str


class Select(msgspec.Struct, frozen=True):
    """`operand.field`: a part of a variable's name, or a key of a map."""

    operand: "Node"
    field: str


class ListLiteral(msgspec.Struct, frozen=True):
    """`[element, …]`."""

    elements: tuple["Node", ...]


class Call(msgspec.Struct, frozen=True):
    """A function, a method or an operator.

    The target of a method is its first argument, and its name begins with a dot. Operators have CEL's names: `_&&_` and
    `_||_` (two or more arguments), `_?_:_`, `!_`, `-_`, `_[_]`, `@in`, `_==_` and the others of that form.
    """

    function: str
    arguments: tuple["Node", ...]


Node: TypeAlias = Literal | Identifier | Select | ListLiteral | Call


def parse(condition: str) -> Node:
    """The tree of a condition; raises NotCovered."""
    if len(condition) > MAX_LENGTH:
        raise NotCovered(f"it has more than {MAX_LENGTH:,} characters")
    try:
        tree: Any = _parser().parse(condition)
    except UnexpectedInput as error:
        place = condition[error.pos_in_stream :].partition("\n")[0]
        raise NotCovered(f"its syntax at `{place[:20]}`") from error
    except LarkError as error:
        raise NotCovered("its syntax") from error
    node: Node = tree
    if _is_deeper(node, MAX_DEPTH):
        raise NotCovered(f"it has more than {MAX_DEPTH} levels")
    return node


def children(node: Node) -> Sequence[Node]:
    """The nodes directly in a node."""
    if isinstance(node, Call):
        return node.arguments
    if isinstance(node, ListLiteral):
        return node.elements
    return (node.operand,) if isinstance(node, Select) else ()


def _is_deeper(node: Node, levels: int) -> bool:
    layer: Sequence[Node] = [node]
    while layer and levels:
        layer = [child for parent in layer for child in children(parent)]
        levels -= 1
    return bool(layer)


@v_args(inline=True)
class _Nodes(Transformer[Token, Node]):
    """The callbacks of the parser: each makes the node of a rule from the nodes of its parts."""

    def conditional(self, condition: Node, then: Node, otherwise: Node) -> Node:
        return Call("_?_:_", (condition, then, otherwise))

    def or_(self, *operands: Node) -> Node:
        return Call("_||_", operands)

    def and_(self, *operands: Node) -> Node:
        return Call("_&&_", operands)

    def binary(self, left: Node, operator: Token, right: Node) -> Node:
        return Call("@in" if operator == "in" else f"_{operator}_", (left, right))

    def not_(self, operand: Node) -> Node:
        return Call("!_", (operand,))

    def negative(self, _: Token, operand: Node) -> Node:
        return Call("-_", (operand,))

    def select(self, operand: Node, field: Token) -> Node:
        return Select(operand, str(field))

    def method(self, target: Node, name: Token, arguments: tuple[Node, ...]) -> Node:
        return Call(f".{name}", (target, *arguments))

    def index(self, operand: Node, key: Node) -> Node:
        return Call("_[_]", (operand, key))

    def function(self, name: Token, arguments: tuple[Node, ...]) -> Node:
        return Call(str(name), arguments)

    def name(self, name: Token) -> Node:
        return Identifier(str(name))

    def list_literal(self, elements: tuple[Node, ...]) -> Node:
        return ListLiteral(elements)

    def arguments(self, *arguments: Node) -> tuple[Node, ...]:
        return arguments

    def boolean(self, text: Token) -> Node:
        return Literal("bool", text == "true")

    def integer(self, text: Token) -> Node:
        return Literal("int", int(text))

    def decimal(self, text: Token) -> Node:
        return Literal("double", float(text))

    def string(self, text: Token) -> Node:
        return Literal("string", _ESCAPE.sub(_unescaped, text[1:-1]))


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1]
    return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPED.get(code, code)


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", lexer="basic", start="expr", transformer=_Nodes())
