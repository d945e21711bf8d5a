"""The lexer finds the names and calls that CEL's own parser finds."""

from typing import Final

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from services.router.cel.lexer import calls, names, tokens
from services.router.cel.syntax import Call, Identifier, Node, Select
from services.router.cel.translation import parts
from tests.support import cel_conditions
from tests.support.cel_trees import MacroExpanded, cel_tree

_SPACE: Final = ("", " ", "\n", "\t", " // title.size(\n", '//"\n', "// '''\n", "//\\\n")
_CONSTANTS: Final = (
    '""', "''", '"a"', '"//"', "'//'", r'"\""', r"'\''", r'"\\"', r"'\\'", '"\'"', "'\"'", r'r"\d"', r"R'\"'",
    '"""a"""', "'''a'''", '""""""', '"""a"b""c"""', "'''\n'//'''", r'"""\""""', r'"""\\"""', 'r"""\\d"a"""',
    '".size("', "'.trim('", "r'.lowerAscii('",
)  # fmt: skip
_TEXTS: Final = ("title", "brand", "price.currency", "seller . name", "attributes.a", "attributes.`a-b`", ".title")


def used(node: Node) -> tuple[set[str], list[str]]:
    """The names of a tree (identifiers and fields), and its calls of functions and methods."""
    found: set[str] = set()
    called: list[str] = []
    for part in parts(node):
        if isinstance(part, Identifier):
            found.add(part.name)
        elif isinstance(part, Select):
            found.add(part.field)
        elif isinstance(part, Call) and part.function.strip(".").isidentifier() and "_" not in part.function[:1]:
            called.append(part.function.strip("."))
    return found, called


def assert_same_names_and_calls(condition: str) -> None:
    try:
        expected, called = used(cel_tree(condition))
    except (ValueError, MacroExpanded):
        reject()
    lexemes = [*tokens(condition)]
    by_lexer = [name for _, name in calls(lexemes)]
    assert sorted(by_lexer) == sorted(called)
    assert names(condition) - {"true", "false", "in", "null"} == expected | {*called}


_space = st.sampled_from(_SPACE)
_value = st.sampled_from(_CONSTANTS) | st.sampled_from(_TEXTS)
_method = st.sampled_from(["lowerAscii()", "upperAscii()", "trim()", "substring(1)", "charAt(0)"])


@st.composite
def written(draw: st.DrawFn) -> str:
    """Comparisons of constants and methods, with white space and comments between all their tokens."""
    tests = []
    for _ in range(draw(st.integers(1, 4))):
        pieces = [draw(_value)]
        if draw(st.booleans()):
            pieces += [".", *draw(_method).replace("(", " ( ").replace(")", " )").split()]
        tests.append("(" + "".join(piece + draw(_space) for piece in pieces) + ")")
    return " && ".join(f"{test} == {draw(_value)}{draw(_space)}" for test in tests)


@given(written())
@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_white_space_comments_and_every_form_of_text_hide_no_name_and_no_call(condition: str) -> None:
    assert_same_names_and_calls(condition)


@given(cel_conditions.conditions)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_a_generated_condition_has_the_names_and_calls_of_cels_tree(condition: str) -> None:
    assert_same_names_and_calls(condition)


@given(cel_conditions.soups)
@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_a_sequence_of_tokens_that_cel_accepts_has_the_names_and_calls_of_cels_tree(condition: str) -> None:
    assert_same_names_and_calls(condition)


@given(st.text(max_size=60) | st.text("`()[]!-+.rRbB/\n'\"\\ a1e", max_size=200))
@settings(max_examples=500)
def test_the_tokens_of_any_text_are_the_text_without_white_space_and_comments(text: str) -> None:
    rest = text
    for token in tokens(text):
        assert token.text
        _, found, rest = rest.partition(token.text)
        assert found
