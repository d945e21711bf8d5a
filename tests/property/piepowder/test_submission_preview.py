"""No JSON can stop the preview or `submit --dry-run`: each object is shown, or refused with its fault."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from piepowder.cli import app
from shared.runtime.user_errors import UserError

_TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(["\ud800", "\udcff", "\x1b[2J", "[red]", "1", "@value", ""]))
_NUMBERS = st.one_of(
    st.integers(-(10**400), 10**400), st.integers(-2, 2), st.floats(), st.sampled_from([10**30, 1e308])
)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=6,
)
_PRICES = st.fixed_dictionaries({}, optional={"amount_minor": _VALUES, "currency": st.one_of(_VALUES, st.just("EUR"))})
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": _VALUES,
    "version": _VALUES,
    "title": _VALUES,
    "text": _VALUES,
    "price": st.one_of(_VALUES, _PRICES),
    "media": st.one_of(_VALUES, st.lists(_VALUES, max_size=2)),
    "@type": st.sampled_from(["Product", 1, ["Product"]]),
    "offers": _VALUES,
    "image": _VALUES,
}
_ITEMS = st.fixed_dictionaries({"platform": _VALUES, "kind": _VALUES}, optional=_FIELDS)
_RECORDS = st.one_of(st.fixed_dictionaries({"sku": _VALUES}, optional=_FIELDS), st.dictionaries(_TEXTS, _VALUES))


def dry_run(content: bytes, name: str) -> str:
    """The output, or the message of the error; any other exception fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        done = CliRunner().invoke(app, ["submit", str(path), "--dry-run", "--folder", f"{folder}/stack"])
        if isinstance(done.exception, UserError):
            return str(done.exception)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output


def texts(values: list[Any]) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


@given(st.lists(st.one_of(_ITEMS, _RECORDS, _VALUES), min_size=1, max_size=3))
@example([{"platform": "a", "kind": "b", "price": 5, "media": 7}])
@example([{"platform": "a", "kind": "b", "price": {"amount_minor": 10**400, "currency": "EUR"}, "media": [[1]]}])
@example([{"platform": "a", "kind": "b", "price": [1], "media": {"x": 1}}, {"platform": [], "kind": {}, "media": True}])
@example([{"sku": 1, "price": 5}, {"sku": True, "price": [5, 6], "images": [{"src": 1}]}])
def test_any_json_is_shown_or_refused_in_words(values: list[Any]) -> None:
    lines = texts(values)
    for content, name in (
        (b"\n".join(lines), "f.ndjson"),
        (b"[%s]" % b",".join(lines), "f.json"),
        (lines[0], "f.json"),
    ):
        shown = dry_run(content, name)
        assert "Nothing was sent" in shown or " FILE" in shown or shown.endswith(".")


def is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:  # also half of a surrogate pair
        return False
    return True


@given(st.lists(_ITEMS, max_size=3), st.binary(max_size=20))
def test_a_broken_line_beside_items_is_refused_alone(values: list[Any], broken: bytes) -> None:
    items = [{**value, "platform": "a", "kind": "b"} for value in values] + [{"platform": "a", "kind": "b"}]
    shown = dry_run(b"\n".join([*texts(items), b"\xff" + broken.replace(b"\n", b"")]), "f.ndjson")
    sent = sum(map(is_json, items))
    assert f"{sent:,} listings can be sent; refused {len(items) + 1 - sent:,}." in shown


@pytest.mark.parametrize("digits", [400, 5_000])
def test_a_number_of_any_length_is_shown_or_refused(digits: int) -> None:
    number = b"9" * digits
    price = b'{"amount_minor":%s,"currency":"EUR"}' % number
    for value in (number, price, b"1e%s" % number, b"-%s.5" % number):
        item = b'{"platform":"a","kind":"b","id":"1","version":%s,"price":%s}' % (number, value)
        for content, name in ((item, "f.ndjson"), (b'[{"sku":"1","name":"x","price":%s}]' % value, "f.json")):
            shown = dry_run(content, name)
            assert "Nothing was sent" in shown or "(Integer value out of range)" in shown


def test_a_deeply_nested_value_is_shown_or_refused() -> None:
    for depth in (100, 900, 5_000, 200_000):
        deep = b"[" * depth + b"]" * depth
        for name in (b"title", b"price", b"media", b"id"):
            item = b'{"platform":"a","kind":"b","%s":%s}' % (name, deep)
            for content, file in (
                (item + b"\n" + item, "f.ndjson"),
                (b'[{"sku":"1","name":"x","%s":%s}]' % (name, deep), "f.json"),
            ):
                shown = dry_run(content, file)
                assert "Nothing was sent" in shown or "nested too deeply" in shown
