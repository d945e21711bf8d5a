"""The tokens of a condition that CEL has compiled (cel-spec, doc/langdef.md, Syntax; the lexer of CEL.g4).

The lexer covers all of CEL, also what `syntax` does not: raw strings, strings in triple quotes, bytes, quoted names. It
is the only source of names and calls for `engine`, so that a word in a string or a comment is never one of them, and
white space and comments between the parts of a name or a call do not hide it.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""
    (?P<hidden> [\t\n\f\r\ ]+ | //[^\n]* )
  | (?P<constant> [bB]? (?: [rR] (?: \"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\n\r]*" | '[^'\n\r]*' )
        | \"{3} (?: \\. | [^\\] )*? \"{3} | '{3} (?: \\. | [^\\] )*? '{3}
        | " (?: \\. | [^"\\\n\r] )* " | ' (?: \\. | [^'\\\n\r] )* ' )
      | 0x[0-9a-fA-F]+[uU]? | [0-9]*\.[0-9]+ (?: [eE][+-]?[0-9]+ )? | [0-9]+ [eE][+-]?[0-9]+ | [0-9]+[uU]? )
  | (?P<name> [a-zA-Z_][a-zA-Z0-9_]* | `[a-zA-Z0-9_.\-/\ ]+` )
  | (?P<sign> . )
    """,
    re.DOTALL | re.VERBOSE,
)


class Lexeme(NamedTuple):
    """A token: `kind` is `constant` (a number, text or bytes), `name` or `sign`; signs have one character."""

    kind: str
    text: str


def tokens(condition: str) -> Iterator[Lexeme]:
    """The tokens of a condition, without white space and comments; quoted names are without their quotes."""
    for found in _TOKEN.finditer(condition):
        kind = found.lastgroup
        if kind is not None and kind != "hidden":
            yield Lexeme(kind, found[0].strip("`") if kind == "name" else found[0])


def names(condition: str) -> frozenset[str]:
    """The names in a condition: variables, fields, functions, elements of macros, and the words `true`, `in` …"""
    return frozenset(token.text for token in tokens(condition) if token.kind == "name")


def calls(lexemes: Sequence[Lexeme]) -> Iterator[tuple[int, str]]:
    """The calls of functions, methods and macros: the place of the name in the tokens, and the name."""
    for place, (token, following) in enumerate(pairwise(lexemes)):
        if token.kind == "name" and following.text == "(" and following.kind == "sign":
            yield place, token.text
