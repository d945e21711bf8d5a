"""Strict JSON decoding reports every duplicate and every number out of range, in a time linear in the text's size."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from services.intake.items.domain import posts
from services.intake.items.domain.posts import MalformedItem
from services.intake.notices.models import AppealBody, NoticeBody
from services.intake.requests.models import CommentBody, DraftBody
from shared.http.bodies import decode_json
from shared.http.documents import Document, DocumentBody, decode
from shared.validation import strict_json
from shared.validation.faults import InputRejected


def reader(model: Any) -> Callable[[bytes], Document[DocumentBody]]:
    return lambda text: Document.parse(model, decode(text))


def wide(opening: bytes, closing: bytes) -> bytes:
    """A JSON text with 100 levels, and 40,001 numbers in the innermost array."""
    return b'{"x":' + opening * 100 + b"[" + b"0," * 40_000 + b"0]" + closing * 100 + b"}"


HOSTILE = {
    "duplicate names": b"{" + b",".join(b'"%d":0' % (n % 6_000) for n in range(12_000)) + b"}",
    "one name": b"{" + b",".join([b'"":0'] * 24_000) + b"}",
    "unknown names": b"{" + b",".join(b'"%x":0' % n for n in range(12_000)) + b"}",
    "empty objects": b'{"x":[' + b"{}," * 40_000 + b"{}]}",
    "deep and wide": wide(b'{"%s":' % (b"n" * 100), b"}"),
    "deep, duplicate names": b'{"%s":' % (b"n" * 100) * 400 + b"{%s}" % b",".join([b'"a":0'] * 12_000) + b"}" * 400,
    "digits": b'{"x":[' + b",".join([b"9" * 4_000] * 30) + b"]}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("read", [*map(reader, (DraftBody, CommentBody, NoticeBody, AppealBody)), posts.read])
def test_reading_is_fast_for_any_form_and_reports_at_most_twenty_faults(
    read: Callable[[bytes], Any], text: bytes
) -> None:
    started = time.process_time()
    try:
        faults = read(text).faults
    except (MalformedItem, InputRejected) as rejected:
        faults = rejected.faults
    assert time.process_time() - started < 0.5
    assert 0 < len(faults) <= 20


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_strict_decoding_without_a_model_is_as_fast(text: bytes) -> None:
    started = time.process_time()
    with suppress(InputRejected):
        decode_json(text)
    assert time.process_time() - started < 0.5


def test_a_walk_visits_all_values_in_order_with_their_paths() -> None:
    given: dict[str, Any] = {"a": [1, [], {"b": "x"}], "c": {}, "d": None}
    walked = [(json.dumps(place), value) for place, value in strict_json.walk(given)]
    assert walked == [
        ("[]", given),
        ('["a"]', given["a"]),
        ('["a", 0]', 1),
        ('["a", 1]', []),
        ('["a", 2]', {"b": "x"}),
        ('["a", 2, "b"]', "x"),
        ('["c"]', {}),
        ('["d"]', None),
    ]


def test_every_duplicate_name_is_found_with_its_path_also_below_an_array() -> None:
    text = b'[{"a": 1, "b": {"c": 1, "c": 2}, "a": 3, "a": 4}, 5]'
    assert list(strict_json.duplicates(strict_json.decode(text))) == [[0, "a"], [0, "b", "c"]]


LARGE = ["9" * 5_000, "-" + "9" * 5_000, "1e400", "-1E+400"]


@pytest.mark.parametrize("number", LARGE)
def test_a_number_out_of_range_is_valid_json_and_is_found_with_its_path(number: str) -> None:
    given = strict_json.decode(f'{{"a": [0, {number}], "b": 1e-400}}'.encode())
    assert list(strict_json.infinite_numbers(given)) == [["a", 1]]
    with pytest.raises(InputRejected) as rejected:
        decode_json(f'{{"a": [0, {number}]}}'.encode())
    assert rejected.value.status == 422
    assert [error.pointer for error in rejected.value.faults] == ["/a/1"]


@pytest.mark.parametrize(
    "other", ["NaN", "Infinity", '"\\ud800"', '"\\udc00\\ud83d"', '"a\x01b"', "01", "tru", "'x'", "1 2", '"\udcff"']
)
@pytest.mark.parametrize("number", ["1", *LARGE])
def test_invalid_json_is_rejected_even_with_a_number_out_of_range(number: str, other: str) -> None:
    with pytest.raises(strict_json.MalformedJsonError):
        strict_json.decode(f"[{number}, {other}]".encode(errors="surrogateescape"))
