"""JSON is read strictly, nothing in it is lost, and reading takes as long as the text is, whoever chose its form."""

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
from shared.http.documents import Document, DocumentBody, decode
from shared.http.http import Problem, require_sound
from shared.validation import strict_json
from shared.validation.faults import InputRejected


def reader(model: Any) -> Callable[[bytes], Document[DocumentBody]]:
    return lambda text: Document.parse(model, decode(text))


def wide(opening: bytes, closing: bytes) -> bytes:
    """120 KiB: a hundred deep, and as wide there as it can be."""
    return b'{"x":' + opening * 100 + b"[" + b"0," * 40_000 + b"0]" + closing * 100 + b"}"


HOSTILE = {
    "names twice": b"{" + b",".join(b'"%d":0' % (n % 6_000) for n in range(12_000)) + b"}",
    "one name": b"{" + b",".join([b'"":0'] * 24_000) + b"}",
    "names that are not known": b"{" + b",".join(b'"%x":0' % n for n in range(12_000)) + b"}",
    "nothing many times": b'{"x":[' + b"{}," * 40_000 + b"{}]}",
    "deep and wide": wide(b'{"%s":' % (b"n" * 100), b"}"),
    "deep, and names twice": b'{"%s":' % (b"n" * 100) * 400 + b"{%s}" % b",".join([b'"a":0'] * 12_000) + b"}" * 400,
    "digits": b'{"x":[' + b",".join([b"9" * 4_000] * 30) + b"]}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("read", [*map(reader, (DraftBody, CommentBody, NoticeBody, AppealBody)), posts.read])
def test_reading_takes_as_long_as_the_text_is_and_the_first_faults_are_enough(
    read: Callable[[bytes], Any], text: bytes
) -> None:
    begun = time.process_time()
    try:
        faults = read(text).faults
    except (MalformedItem, InputRejected) as refused:
        faults = refused.faults
    assert time.process_time() - begun < 0.5
    assert 0 < len(faults) <= 20


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_others_read_is_looked_through_as_fast(text: bytes) -> None:
    begun = time.process_time()
    with suppress(Problem):
        require_sound(text)
    assert time.process_time() - begun < 0.5


def test_all_values_are_walked_in_their_order_each_with_its_place() -> None:
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


def test_each_name_that_is_there_more_than_once_has_its_place_even_in_what_is_not_an_object_first() -> None:
    text = b'[{"a": 1, "b": {"c": 1, "c": 2}, "a": 3, "a": 4}, 5]'
    assert list(strict_json.twice(strict_json.decode(text))) == [[0, "a"], [0, "b", "c"]]


LARGE = ["9" * 5_000, "-" + "9" * 5_000, "1e400", "-1E+400"]


@pytest.mark.parametrize("number", LARGE)
def test_a_number_that_is_too_large_to_be_one_is_json_and_has_its_place(number: str) -> None:
    given = strict_json.decode(f'{{"a": [0, {number}], "b": 1e-400}}'.encode())
    assert list(strict_json.too_large(given)) == [["a", 1]]
    with pytest.raises(Problem) as unsound:
        require_sound(f'{{"a": [0, {number}]}}'.encode())
    assert unsound.value.details.status == 422
    assert [error.pointer for error in unsound.value.details.errors] == ["/a/1"]


@pytest.mark.parametrize(
    "other", ["NaN", "Infinity", '"\\ud800"', '"\\udc00\\ud83d"', '"a\x01b"', "01", "tru", "'x'", "1 2", '"\udcff"']
)
@pytest.mark.parametrize("number", ["1", *LARGE])
def test_what_is_no_json_is_none_beside_a_number_that_is_too_large(number: str, other: str) -> None:
    with pytest.raises(strict_json.Malformed):
        strict_json.decode(f"[{number}, {other}]".encode(errors="surrogateescape"))
