"""CEL's own tree of a condition, read from its serialised form, in the terms of `services.router.cel.syntax`.

The form is the protocol buffer `cel.expr.CheckedExpr` (cel-spec, proto/cel/expr/checked.proto and syntax.proto), for
which `cel-expr-python` brings no classes. Only the fields of expressions are read here.
"""

import struct
from typing import Final

from services.router.cel.engine import CelCondition
from services.router.cel.syntax import Call, Identifier, ListLiteral, Literal, Node, Select

_CHECKED, _EXPR = 2, 4
_CONST, _IDENT, _SELECT, _CALL, _LIST = 3, 4, 5, 6, 7
_FLAT: Final = ("_&&_", "_||_")
_TWICE: Final = ("!_", "-_")

Fields = dict[int, list[int | bytes]]


class MacroExpanded(Exception):  # noqa: N818 - named after the fact, not after an error
    """The tree has the expansion of a macro, which the syntax does not have."""


def cel_tree(condition: str) -> Node:
    """The normalised tree that CEL has; raises ValueError if the condition is invalid, MacroExpanded for a macro."""
    serialised = CelCondition(condition).serialised()
    return normalised(_node(_message(_message(_message(serialised)[_CHECKED][0])[_EXPR][0])))


def normalised(node: Node) -> Node:
    """The tree with one form of what has several: chains of `&&` and `||` are flat, doubled `!` and `-` cancel."""
    if isinstance(node, Select):
        return Select(normalised(node.operand), node.field)
    if isinstance(node, ListLiteral):
        return ListLiteral(tuple(map(normalised, node.elements)))
    if not isinstance(node, Call):
        return node
    arguments = tuple(map(normalised, node.arguments))
    if node.function == "-_" and arguments == (Literal("int", 0),):
        return arguments[0]
    if node.function in _FLAT:
        flat = [part for one in arguments for part in _chain(node.function, one)]
        return Call(node.function, tuple(flat))
    if node.function in _TWICE and isinstance(inner := arguments[0], Call) and inner.function == node.function:
        return inner.arguments[0]
    return Call(node.function, arguments)


def _chain(function: str, node: Node) -> tuple[Node, ...]:
    return node.arguments if isinstance(node, Call) and node.function == function else (node,)


def _node(fields: Fields) -> Node:
    if _CONST in fields:
        return _constant(_message(fields[_CONST][0]))
    if _IDENT in fields:
        parts = _text(_message(fields[_IDENT][0])[1][0]).split(".")
        found: Node = Identifier(parts[0])
        for part in parts[1:]:
            found = Select(found, part)
        return found
    if _SELECT in fields:
        select = _message(fields[_SELECT][0])
        selected = Select(_node(_message(select[1][0])), _text(select[2][0]))
        return Call("has", (selected,)) if 3 in select else selected
    if _CALL in fields:
        call = _message(fields[_CALL][0])
        arguments = tuple(_node(_message(one)) for one in [*call.get(1, []), *call.get(3, [])])
        return Call(f".{_text(call[2][0])}" if 1 in call else _text(call[2][0]), arguments)
    if _LIST in fields:
        return ListLiteral(tuple(_node(_message(one)) for one in _message(fields[_LIST][0]).get(1, [])))
    raise MacroExpanded


def _constant(fields: Fields) -> Node:
    ((kind, (value,)),) = fields.items()
    if kind == 2:
        return Literal("bool", value == 1)
    if kind == 3:
        assert isinstance(value, int)
        signed = value - 2**64 if value >= 2**63 else value
        return Call("-_", (Literal("int", -signed),)) if signed < 0 else Literal("int", signed)
    if kind == 5:
        assert isinstance(value, bytes)
        (double,) = struct.unpack("<d", value)
        negative = struct.pack("<d", double)[-1] >= 128
        return Call("-_", (Literal("double", -double),)) if negative else Literal("double", double)
    if kind == 6:
        return Literal("string", _text(value))
    return Literal(f"constant {kind}", False)


def _text(value: int | bytes) -> str:
    assert isinstance(value, bytes)
    return value.decode()


def _message(data: int | bytes) -> Fields:
    """The fields of a message by number (Protocol Buffers, Encoding)."""
    assert isinstance(data, bytes)
    fields: Fields = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        value: int | bytes
        if key & 7 == 0:
            value, at = _varint(data, at)
        else:
            length, at = (8, at) if key & 7 == 1 else _varint(data, at)
            value, at = data[at : at + length], at + length
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
