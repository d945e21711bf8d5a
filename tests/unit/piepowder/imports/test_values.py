"""One meaning has one spelling, and the values are those that intake accepts."""

import re

import msgspec
import pytest

from piepowder.imports import values
from piepowder.imports.rows import DateText, Number, UnknownValue
from services.intake.items.domain.posts import MAX_BODY_BYTES
from services.intake.items.handlers import ItemIntake
from shared.validation import codes
from shared.validation.faults import InputRejected
from tests.support.intake_items import ANYONE, NOW, item_intake


@pytest.mark.parametrize(
    ("text", "gtin"),
    [
        ("4006381333931", "4006381333931"),
        ("400-6381 333931", "4006381333931"),
        ("'4006381333931", "4006381333931"),
        ('="4006381333931"', "4006381333931"),
        ("04006381333931", "4006381333931"),
        ("036000291452", "036000291452"),
        ("0036000291452", "036000291452"),
        ("00036000291452", "036000291452"),
        ("96385074", "96385074"),
        ("00000096385074", "96385074"),
        ("4006381333931.0", "4006381333931"),
        ("Doesn’t apply", None),
        ("Does not apply", None),
        ("DOES  NOT APPLY", None),
        ("N/A", None),
        ("nicht zutreffend", None),
        ("-", None),
    ],
)
def test_a_gtin_has_one_form_and_a_text_that_denies_it_is_none(text: str, gtin: str | None) -> None:
    assert values.gtin(text) == gtin


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("00000000", "all of its digits are 0"),
        ("0000000000000", "all of its digits are 0"),
        ("4006381333932", "expected 1 at the end"),
        ("36000291452", "removed zeros"),
        ("4.00638E+12", "shortened by a spreadsheet"),
        ("4,00638E+12", "shortened by a spreadsheet"),
        ("3-16-148410-0", "is not a GTIN"),
        ("٤٠٠٦٣٨١٣٣٣٩٣١", "is not a GTIN"),
        ("B000051ZOA", "is not a GTIN"),
    ],
)
def test_a_faulty_gtin_is_refused_with_its_fault(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        values.gtin(text)


@pytest.mark.parametrize("text", ["٤٠٠٦٣٨١٣٣٣٩", "12345", "B000051ZOA"])
def test_zeros_are_suspected_only_before_digits_that_may_be_a_gtin(text: str) -> None:
    with pytest.raises(ValueError, match="is not a GTIN") as refused:
        values.gtin(text)
    assert str(refused.value) == (
        f"{text!r} is not a GTIN: expected 8, 12, 13 or 14 digits (0 to 9); correct it, or leave the cell empty"
    )


@pytest.mark.parametrize(
    ("text", "tag"), [("NL", "nl"), ("nl", "nl"), ("nl-nl", "nl-NL"), ("en_US", "en-US"), ("zh-hant-tw", "zh-Hant-TW")]
)
def test_a_language_has_one_spelling(text: str, tag: str) -> None:
    assert values.language(text) == tag


@pytest.mark.parametrize("text", ["German", "xx-yy-zz", "en_US.UTF-8", "d", "de DE"])
def test_another_text_is_no_language(text: str) -> None:
    with pytest.raises(ValueError, match="not a language tag"):
        values.language(text)


A, B = "https://img.example/a.jpg", "https://img.example/b.jpg"


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (f"{A}, {B}", [A, B]),
        (f"{A};{B}", [A, B]),
        (f"{A}|{B}", [A, B]),
        (f"{A} {B}", [A, B]),
        (f"{A}\n{B}", [A, B]),
        (f"{A},{B},", [A, B]),
        (f"{A} , {A}", [A]),
        ("https://img.example/w_300,h_200/a.jpg", ["https://img.example/w_300,h_200/a.jpg"]),
        (f"https://img.example/w_3,h_2/a;v=1.jpg,{B}", ["https://img.example/w_3,h_2/a;v=1.jpg", B]),
        ("HTTPS://IMG.example/A.jpg", ["HTTPS://IMG.example/A.jpg"]),
    ],
)
def test_urls_are_separated_and_their_own_commas_are_kept(cell: str, found: list[str]) -> None:
    assert values.media([cell]) == found


@pytest.mark.parametrize(
    "cell",
    [
        "https://proxy.example/fetch/https://img.example/a.jpg",
        "https://proxy.example/?u=https://img.example/a.jpg,b",
        "https://img.example/a.jpg,w_300",
        "https://img.example//a//b.jpg",
    ],
)
def test_a_url_inside_a_path_or_query_is_part_of_it(cell: str) -> None:
    assert values.media([cell]) == [cell]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("a.jpg, b.jpg", "'a.jpg, b.jpg' is not an http:// or https:// URL; give the URL of the picture"),
        ("//img.example/a.jpg", "'//img.example/a.jpg' is not an http:// or https:// URL; give the URL of the picture"),
        ("https://", "'https://' is not an http:// or https:// URL; give the URL of the picture"),
        (
            "data:image/png;base64,AAAA",
            "'data:image/png;base64,AAAA' is an inline picture; give the URL of the picture",
        ),
        (
            "https://e.com/a b.jpg",
            "'https://e.com/a b.jpg' has white space at 15; write it as %20, and each URL from its https://",
        ),
        (
            f"{A}, b.jpg",
            f"'{A}, b.jpg' has white space at 26; write it as %20, and each URL from its https://",
        ),
        (Number("5"), "'5' is not an http:// or https:// URL; give the URL of the picture"),
        (UnknownValue("it is a list of objects"), "it is a list of objects"),
        (f"{A}?{'x' * 2_100}", f"'{A}?{'x' * 34}…' has 2,126 characters; at most 2,048 are allowed"),
    ],
)
def test_a_cell_with_another_text_than_urls_is_refused_with_its_fault(cell: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        values.media([cell])


@pytest.mark.parametrize(
    "cell",
    [
        f"{A}^{B}",
        f"{A}::{B}",
        f"{A}\\n{B}",
        f"{A}{B}",
        f"{A}?v=1^{B}?v=2",
        f"{A},//cdn.example/b.jpg",
        f"{A},b.jpg",
        f"{A};b.PNG?v=1",
        f"{B},{A}|c.webp",
        f"{A}+{B}",
    ],
)
def test_a_text_that_may_be_several_urls_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="may be several URLs; write each with https://"):
        values.media([cell])


@pytest.mark.parametrize(
    "url", [f"https://p.example/fetch/w_300,h_2/{A}", f"https://p.example/?u={A}", f"{A}?v=1,2", A]
)
def test_an_address_in_the_path_of_a_proxy_or_in_a_query_is_part_of_the_url(url: str) -> None:
    assert values.media([url]) == [url]
    assert values.media([f"{url},{B}"]) == list(dict.fromkeys([url, B]))


def test_an_id_keeps_its_zeros_and_a_damaged_one_is_refused() -> None:
    assert [values.identifier(text) for text in ("0012", '="0012"', "12E45")] == ["0012", "0012", "12E45"]
    assert values.identifier(Number("1001")) == "1001"
    for damaged in ("4.00638E+12", Number("12345678901234567000"), DateText("2026-01-02")):
        with pytest.raises(ValueError, match=r"shortened|15 digits|date"):
            values.identifier(damaged)


@pytest.mark.parametrize("text", ["a\nb", "a\u200bb", "gru\u0308n", "."])
def test_an_id_that_intake_refuses_is_refused_here_too(intake: ItemIntake, text: str) -> None:
    assert not accepts(intake, id=text)
    with pytest.raises(ValueError, match=r"printable|NFC|no ids"):
        values.identifier(text)


@pytest.mark.parametrize(("text", "found"), [("de", ("DE",)), ("DE, fr|AT;DE", ("DE", "FR", "AT"))])
def test_markets_are_distinct_codes(text: str, found: tuple[str, ...]) -> None:
    assert values.markets(text) == found


def test_an_unknown_market_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match="is GB"):
        values.markets("UK")


@pytest.fixture(scope="module")
def intake() -> ItemIntake:
    return item_intake()


def accepts(intake: ItemIntake, **fields: object) -> bool:
    item = {"platform": "shop", "kind": "product", "id": "1", "markets": ["DE"]} | fields
    try:
        intake.prepare(msgspec.json.encode(item), ANYONE, NOW)
    except InputRejected:
        return False
    return True


def test_the_other_limits_are_those_of_intake(intake: ItemIntake) -> None:
    assert values.MAX_BODY == MAX_BODY_BYTES
    assert accepts(intake, attributes={"a": "x" * values.MAX_ATTRIBUTE})
    assert not accepts(intake, attributes={"a": "x" * (values.MAX_ATTRIBUTE + 1)})
    assert not accepts(intake, attributes={f"a{n}": "x" for n in range(values.MAX_ATTRIBUTES + 1)})
    assert not accepts(intake, media=[f"{A}?{n}" for n in range(values.MAX_MEDIA + 1)])
    assert not accepts(intake, media=[A + "x" * values.MAX_URL])
    assert not accepts(intake, version=values.MAX_VERSION + 1)
    countries = sorted(codes.load().countries)[: values.MAX_MARKETS + 1]
    assert not accepts(intake, markets=countries)
    assert values.markets(" ".join(countries[:-1])) == tuple(countries[:-1])
    with pytest.raises(ValueError, match="51 markets"):
        values.markets(" ".join(countries))
    assert accepts(intake, category="/".join("x" * values.MAX_CATEGORY_LEVELS))
    assert not accepts(intake, category="/".join("x" * (values.MAX_CATEGORY_LEVELS + 1)))


@pytest.mark.parametrize("code", [0x00, 0x07, 0x1F, 0x7F, 0x80, 0x85, 0x9F])
def test_a_control_character_is_refused_here_and_by_intake(intake: ItemIntake, code: int) -> None:
    with pytest.raises(ValueError, match=f"U\\+{code:04X} at 1"):
        values.check_text(f"a{chr(code)}b", 10)
    for field in ("title", "text", "brand", "category"):
        assert not accepts(intake, **{field: f"a{chr(code)}b"})
    assert not accepts(intake, attributes={"a": chr(code)})


@pytest.mark.parametrize("text", ["tab\t", "line\r\n", "\u00a0", "\u2028", "é", "\u200e"])
def test_other_characters_are_accepted_here_and_by_intake(intake: ItemIntake, text: str) -> None:
    values.check_text(text, 10)
    assert accepts(intake, title=text)
