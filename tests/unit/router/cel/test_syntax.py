"""The syntax covers a part of CEL's grammar with CEL's precedence, and refuses every other text."""

import pytest

from services.router.cel.syntax import (
    MAX_DEPTH,
    MAX_LENGTH,
    Call,
    Identifier,
    ListLiteral,
    Literal,
    Node,
    NotCovered,
    Select,
    parse,
)

A, B, C = Identifier("a"), Identifier("b"), Identifier("c")
ONE, TWO, THREE = (Literal("int", n) for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("condition", "tree"),
    [
        ("a", A),
        ("true", Literal("bool", True)),
        ("falsehood", Identifier("falsehood")),
        ("0.5", Literal("double", 0.5)),
        (".5", Literal("double", 0.5)),
        ("1e3", Literal("double", 1000.0)),
        ("a.b", Select(A, "b")),
        ("a . b //c", Select(A, "b")),
        ("a.b(c)", Call(".b", (A, C))),
        ("a(b, c)", Call("a", (B, C))),
        ("a[b]", Call("_[_]", (A, B))),
        ("[]", ListLiteral(())),
        ("[1, 2,]", ListLiteral((ONE, TWO))),
        ("-a.b", Call("-_", (Select(A, "b"),))),
        ("!a == b", Call("_==_", (Call("!_", (A,)), B))),
        ("1 - 2 - 3", Call("_-_", (Call("_-_", (ONE, TWO)), THREE))),
        ("1 + 2 * 3", Call("_+_", (ONE, Call("_*_", (TWO, THREE))))),
        ("(1 + 2) * 3", Call("_*_", (Call("_+_", (ONE, TWO)), THREE))),
        ("a in b == c", Call("_==_", (Call("@in", (A, B)), C))),
        ("a<1&&b", Call("_&&_", (Call("_<_", (A, ONE)), B))),
        ("a || b && c", Call("_||_", (A, Call("_&&_", (B, C))))),
        ("a || b || c", Call("_||_", (A, B, C))),
        ("a ? b : c ? 1 : 2", Call("_?_:_", (A, B, Call("_?_:_", (C, ONE, TWO))))),
        ("a in[b]", Call("@in", (A, ListLiteral((B,))))),
        ("inside in index", Call("@in", (Identifier("inside"), Identifier("index")))),
    ],
)
def test_a_condition_has_the_tree_of_cels_grammar(condition: str, tree: Node) -> None:
    assert parse(condition) == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("''", ""),
        ('"a"', "a"),
        ("'\"'", '"'),
        (r"'\'\\\n\r\t\"'", "'\\\n\r\t\""),
        (r'"\u00c9"', "É"),
        ('"// no comment"', "// no comment"),
        ("'😀\u2028'", "😀\u2028"),
    ],
)
def test_a_string_has_its_escapes_replaced(text: str, value: str) -> None:
    assert parse(text) == Literal("string", value)


@pytest.mark.parametrize(
    "condition",
    [
        "1u", "0x1F", "01", "1.", "1e400", "r'a'", "b'a'", "'''a'''", '"""a"b"""', r"'\x41'", r"'\101'",
        r"'\U0001F600'", r"'\q'", "'a", "'a\nb'", "{'a': 1}", "a.?b", "a[?1]", "`a`", ".a", "A{}", "a b", "a in", "",
        "+1", "a; b", "a = b", "lambda: 1", "a\u00a0", "é", "a if b else c", "f'{a}'",
        "a.b.__class__()()", "a := b", "*a", "@a",
    ],
)  # fmt: skip
def test_other_syntax_is_not_covered(condition: str) -> None:
    with pytest.raises(NotCovered):
        parse(condition)


def test_the_reason_names_the_place() -> None:
    with pytest.raises(NotCovered, match=r"^its syntax at `'a' == title`$"):
        parse("r'a' == title")


def test_long_and_deep_conditions_are_not_covered() -> None:
    assert parse("!" * (MAX_DEPTH - 1) + "a") != A
    nested = "(" * 900 + "a" + ")" * 900
    for condition in ("!" * MAX_DEPTH + "a", "a" + "+a" * MAX_DEPTH, "a" + ".b" * 900, nested + "+a" * 80):
        with pytest.raises(NotCovered, match="levels"):
            parse(condition)
    with pytest.raises(NotCovered, match="characters"):
        parse(" " * MAX_LENGTH + "a")
    assert parse(nested) == A
