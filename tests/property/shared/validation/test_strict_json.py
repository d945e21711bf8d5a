"""The fast check for duplicate keys finds the same texts as the exact one that reports their paths."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from shared.validation import strict_json

_keys = st.sampled_from(["a", "b", "ä", "é", "é", "\U0001f600", "", "\x00", '"', "\\"])
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _keys
# an object is a list of pairs, so that its keys can be duplicates
_values: st.SearchStrategy[Any] = st.recursive(
    _scalars, lambda child: st.lists(child, max_size=3) | st.lists(st.tuples(_keys, child), max_size=4).map(tuple)
)


def encoded(value: Any, *, ascii_only: bool) -> str:
    if isinstance(value, tuple):
        members = (
            f"{json.dumps(key, ensure_ascii=ascii_only)}:{encoded(child, ascii_only=ascii_only)}"
            for key, child in value
        )
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(encoded(child, ascii_only=ascii_only) for child in value)}]"
    return json.dumps(value, ensure_ascii=ascii_only)


def has_duplicates(value: Any) -> bool:
    if isinstance(value, tuple):
        keys = [key for key, _ in value]
        return len(set(keys)) < len(keys) or any(has_duplicates(child) for _, child in value)
    return isinstance(value, list) and any(map(has_duplicates, value))


@given(value=_values, ascii_only=st.booleans(), depth=st.sampled_from([0, 0, 0, 300]))
@example(value=(("a", 1), ("a", 2)), ascii_only=True, depth=300)
@example(value=(("a", 10**40), ("b", 1)), ascii_only=True, depth=0)
def test_the_fast_check_finds_the_texts_with_duplicate_keys(value: Any, ascii_only: bool, depth: int) -> None:
    text = ("[" * depth + encoded(value, ascii_only=ascii_only) + "]" * depth).encode()
    assert strict_json.has_duplicates(text) == has_duplicates(value)
