"""Names and calls of a condition, in every form of CEL's strings, comments and white space."""

import pytest

from services.router.cel.lexer import Lexeme, calls, names, tokens


def called(condition: str) -> list[str]:
    return [name for _, name in calls([*tokens(condition)])]


def test_tokens_have_their_kind_and_no_white_space() -> None:
    assert [*tokens('seller\t. // a(b)\n `age/x` >= -0x1Fu || r"\\" in [.5e3]')] == [
        Lexeme("name", "seller"),
        Lexeme("sign", "."),
        Lexeme("name", "age/x"),
        Lexeme("sign", ">"),
        Lexeme("sign", "="),
        Lexeme("sign", "-"),
        Lexeme("constant", "0x1Fu"),
        Lexeme("sign", "|"),
        Lexeme("sign", "|"),
        Lexeme("constant", 'r"\\"'),
        Lexeme("name", "in"),
        Lexeme("sign", "["),
        Lexeme("constant", ".5e3"),
        Lexeme("sign", "]"),
    ]


@pytest.mark.parametrize(
    "constant",
    [
        '""',
        "''",
        '"//a("',
        r'"\\"',
        r"'\\'",
        r'"\"a("',
        '"\'a("',
        '"""a(""b(\n"c("""',
        "'''a(''b(\n'c('''",
        r'"""\"""a("""',
        r"r'\a('",
        'R"""a(\\"""',
        r'b"a(\""',
        r'Br"\a("',
        '""""""',
        "1e5",
        "1.5E-3",
        "12u",
    ],
)
def test_a_constant_is_one_token_and_what_follows_it_is_code(constant: str) -> None:
    assert [*tokens(f"{constant}+size(a)")][:2] == [Lexeme("constant", constant), Lexeme("sign", "+")]
    assert names(f"{constant}+size(a)") == {"size", "a"}
    assert called(f"{constant}+size(a)") == ["size"]


def test_a_call_may_have_white_space_and_comments() -> None:
    assert called('title.matches // x("\n\t("a") && .size (b) > 1 && matches.c[0] == (d)') == ["matches", "size"]
