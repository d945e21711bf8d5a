"""A written price becomes exact minor units, or it is refused: no reading is guessed."""

import re
from pathlib import Path

import pytest

from piepowder.imports.file_options import FileOptions
from piepowder.imports.money import Price, read_price
from piepowder.imports.rows import DateText, Number
from tests.support.listing_files import imported

CERTAIN = [
    ("12.5", "US", 1250, "USD"),
    ("12.99", "DE", 1299, "EUR"),
    ("12,99", "DE", 1299, "EUR"),
    ("0.0", "US", 0, "USD"),
    ("0.500", "US", 50, "USD"),
    (".99", "US", 99, "USD"),
    ("$.99", "US", 99, "USD"),
    ("1,234.50", "US", 123450, "USD"),
    ("1.234,50 €", "US", 123450, "EUR"),
    ("1.299.900", "DE", 129990000, "EUR"),
    ("1,23,456.00", "IN", 12345600, "INR"),
    ("$ 5", "US", 500, "USD"),
    ("69.71 gbp", "US", 6971, "GBP"),
    ("EUR12.99", "US", 1299, "EUR"),
    ("€ 12.99 EUR", "US", 1299, "EUR"),
    ("$12.99 CAD", "US", 1299, "CAD"),
    ("US $12.99", "DE", 1299, "USD"),
    ("US$ 12.99", "DE", 1299, "USD"),
    ("12€99", "US", 1299, "EUR"),
    ("12,- €", "US", 1200, "EUR"),
    ("129.–", "CH", 12900, "CHF"),
    ("CHF 1'299.90", "US", 129990, "CHF"),
    ("CHF 1’299.90", "US", 129990, "CHF"),
    ("129 kr", "SE", 12900, "SEK"),
    ("129 kr", "DK", 12900, "DKK"),
    ("129,50 kr.", "NO", 12950, "NOK"),
    ("kr.129", "NO", 12900, "NOK"),
    ("Rs.500", "IN", 50000, "INR"),
    ("1299 Kč", "US", 129900, "CZK"),
    ("1 299 zł", "US", 129900, "PLN"),
    ("1\u202f299,90 €", "US", 129990, "EUR"),
    ("1\u00a0299,90\u00a0€", "US", 129990, "EUR"),
    ("1 299,900 €", "US", 129990, "EUR"),
    ("R$ 1.299,90", "US", 129990, "BRL"),
    ("£5", "GB", 500, "GBP"),
    ("¥1200", "JP", 1200, "JPY"),
    ("￥1200", "CN", 120000, "CNY"),
    ("1200", "JP", 1200, "JPY"),
    ("1,5 TL", "DE", 150, "TRY"),
    ("2.7199999999999998", "US", 272, "USD"),
    ("0.30000000000000004", "US", 30, "USD"),
    ("999999999999.99", "US", 99999999999999, "USD"),
]
REFUSED = [
    ("1.500", "DE", "is ambiguous: 1500, or 1.500"),
    ("1.290 €", "DE", "is ambiguous: 1290, or 1.290"),
    ("12.000", "VN", "is ambiguous: 12000, or 12.000"),
    ("12,345", "DE", "is ambiguous: 12345, or 12.345"),
    ("12.500", "US", "is ambiguous"),
    ("1.234", "KW", "is ambiguous"),
    ("123.456", "KW", "is ambiguous: 123456, or 123.456"),
    ("$12.99", "DE", "'$' is the sign of USD, AUD"),
    ("129 kr", "DE", "'kr' is the sign of SEK, NOK, DKK, ISK"),
    ("¥1200", "US", "'¥' is the sign of JPY, CNY"),
    ("£5", "DE", "'£' is the sign of GBP"),
    ("€ 12.99 USD", "US", "name different currencies"),
    ("5", "PA", "have several (PAB, USD)"),
    ("12.345678", "US", "has more decimals than USD, which has 2"),
    ("1.5", "JP", "has more decimals than JPY, which has 0"),
    ("12.9876543210987654", "US", "has more decimals"),
    ("-3", "US", "is not an amount"),
    ("1e5", "US", "is not an amount"),
    (".", "US", "is not an amount"),
    ("12.", "US", "is not an amount"),
    ("12 99", "US", "is not an amount"),
    ("1,29,50.0", "US", "is not an amount"),
    ("1.29.50", "DE", "is not an amount"),
    ("1'299 900", "CH", "is not an amount"),
    ("12 or 13", "US", "is not an amount"),
    ("12.99 - 15.99", "US", "is not an amount"),
    ("ab 12 €", "DE", "is not an amount"),
    ("free", "US", "is not an amount"),
    ("12 XYZ", "US", "is not an amount"),
    ("٣", "US", "is not an amount"),
    ("99999999999999999999", "US", "is larger than any price"),
]


def read(text: str, market: str = "US", decimal: str | None = None, default: str = "") -> Price:
    return read_price(text, "", (market,), lambda _: decimal, default)


@pytest.mark.parametrize(("text", "market", "minor", "currency"), CERTAIN)
def test_a_price_with_one_reading_becomes_exact_minor_units(text: str, market: str, minor: int, currency: str) -> None:
    assert read(text, market) == (minor, currency)


@pytest.mark.parametrize(("text", "market", "reason"), REFUSED)
def test_a_price_with_no_or_several_readings_is_refused(text: str, market: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        read(text, market)


@pytest.mark.parametrize(
    ("text", "decimal", "minor"),
    [("1.500", ",", 150000), ("1.500", ".", 150), ("12,345", ".", 1234500), ("7", ",", 700)],
)
def test_the_stated_decimal_separator_decides_an_ambiguous_price(text: str, decimal: str, minor: int) -> None:
    assert read(text, "US", decimal) == (minor, "USD")


@pytest.mark.parametrize(("text", "decimal"), [("12.99", ","), ("12,99", "."), ("1,5", "."), ("1.2345,6", ",")])
def test_a_price_that_contradicts_the_stated_decimal_separator_is_refused(text: str, decimal: str) -> None:
    with pytest.raises(ValueError, match="with the decimal separator"):
        read(text, "US", decimal)


def test_a_sign_of_several_currencies_takes_the_default_only_if_it_is_one_of_them() -> None:
    assert read("$12.99", "DE", default="CAD") == (1299, "CAD")
    assert read("$12.99", "US", default="EUR") == (1299, "USD")
    with pytest.raises(ValueError, match="--currency EUR is none of them"):
        read("$12.99", "DE", default="EUR")


def test_the_currency_of_a_column_is_not_contradicted() -> None:
    assert read_price("$5", "CAD", ("US",), lambda _: None, "USD") == (500, "CAD")
    with pytest.raises(ValueError, match="contradicts the currency EUR"):
        read_price("$5", "EUR", ("US",), lambda _: None, "USD")


def test_a_number_of_a_workbook_is_never_ambiguous_and_a_date_is_no_price() -> None:
    assert read(Number("1.234"), "KW") == (1234, "KWD")
    assert read(Number("1500"), "DE") == (150000, "EUR")
    assert read(Number("12.5", "€"), "US") == (1250, "EUR")
    with pytest.raises(ValueError, match="is a date"):
        read(DateText("2026-05-12"))
    with pytest.raises(ValueError, match="'1e99999999999999999999' is not a price"):
        read(Number("1e99999999999999999999"))


def test_the_currency_of_a_row_precedes_that_in_the_name_of_the_price_column(tmp_path: Path) -> None:
    rows = "1;1.500;USD\n2;12,50;USD\n3;3,5;USD\n4;7,5;\n"
    found = imported(tmp_path, f"id;Preis (EUR);Währung\n{rows}", FileOptions(platform="s", markets=["DE"]))
    prices = [(item["price"]["amount_minor"], item["price"]["currency"]) for item in found.items]
    assert prices == [(150_000, "USD"), (1_250, "USD"), (350, "USD"), (750, "EUR")]


def test_prices_decide_for_the_currency_of_their_own_market(tmp_path: Path) -> None:
    rows = "1;1.500;DE\n2;12,50;DE\n3;3,5;DE\n4;7.5;US\n5;8.25;US\n"
    found = imported(tmp_path, f"id;price;markets\n{rows}", FileOptions(platform="s"))
    prices = [(item["price"]["amount_minor"], item["price"]["currency"]) for item in found.items]
    assert prices == [(150_000, "EUR"), (1_250, "EUR"), (350, "EUR"), (750, "USD"), (825, "USD")]


def test_the_column_as_a_whole_decides_an_ambiguous_price_and_says_so(tmp_path: Path) -> None:
    found = imported(tmp_path, "id;price\n1;1.500\n2;12,50\n3;3,5\n", FileOptions(platform="s", markets=["DE"]))

    assert [item["price"]["amount_minor"] for item in found.items] == [150_000, 1_250, 350]
    assert (
        found.notes["decimal separator"]
        == "comma: 2 prices show it, none the other; so 1 ambiguous one is read with it"
    )


def test_a_column_with_both_decimal_separators_decides_nothing(tmp_path: Path) -> None:
    found = imported(tmp_path, "id;price\n1;1.500\n2;12,50\n3;12.50\n", FileOptions(platform="s", markets=["DE"]))

    assert [item["price"]["amount_minor"] for item in found.items] == [1_250, 1_250]
    assert "ambiguous" in found.refusals[0].detail
    assert found.notes["decimal separator"] == "point and comma, as each price shows; 1 ambiguous one is refused"


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        (["US$ 4.99", "US$ 3.50"], "of another currency"),
        (["4.99 bad", "3.75 XAF", "3.999 bad"], "refused themselves"),
        (["4,50 €"], "only one"),
    ],
)
def test_prices_that_do_not_decide_leave_an_ambiguous_one_refused(
    tmp_path: Path, others: list[str], reason: str
) -> None:
    rows = "".join(f"{n};{price}\n" for n, price in enumerate(["1.500 EUR", *others]))
    found = imported(tmp_path, f"id;price\n{rows}", FileOptions(platform="s", markets=["DE"]))
    assert found.refusals[0].detail.startswith("price (column 'price'): '1.500 EUR' is ambiguous"), reason


def test_a_currency_in_place_of_the_decimal_separator_shows_none_and_fits_every_other_price(tmp_path: Path) -> None:
    rows = "id;price\n1;1.500\n2;12€99\n3;7€50\n"
    found = imported(tmp_path, rows, FileOptions(platform="s", markets=["DE"]))
    assert [item["price"]["amount_minor"] for item in found.items] == [1_299, 750]
    assert found.refusals[0].detail.startswith("price (column 'price'): '1.500' is ambiguous")
    rows = "id;price\n1;1.500 €\n2;12€99\n3;19,90 €\n4;5,5\n"
    for decimal in (None, ","):
        found = imported(tmp_path, rows, FileOptions(platform="s", markets=["DE"], decimal=decimal))
        assert [item["price"]["amount_minor"] for item in found.items] == [150_000, 1_299, 1_990, 550]


def test_each_currency_decides_its_own_prices(tmp_path: Path) -> None:
    prices = ["1.500 EUR", "2,50 EUR", "3,50 EUR", "US$ 2,500", "US$ 2.50", "US$ 3.50"]
    rows = "".join(f"{n};{price}\n" for n, price in enumerate(prices))
    found = imported(tmp_path, f"id;price\n{rows}", FileOptions(platform="s"))
    assert [item["price"]["amount_minor"] for item in found.items] == [150_000, 250, 350, 250_000, 250, 350]
    assert found.notes["decimal separator"] == (
        "EUR: comma: 2 prices show it, none the other; so 1 ambiguous one is read with it;"
        " USD: point: 2 prices show it, none the other; so 1 ambiguous one is read with it"
    )


def test_one_outlier_decides_nothing(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,title,price\n1,a,1.500\n2,b,2.300\n3,c,4.5\n")
    assert [item["id"] for item in found.items] == ["3"]
    assert found.notes["decimal separator"] == (
        "point: 1 price shows it, none the other; 2 ambiguous ones are refused, because one price does not decide"
        " (--decimal)"
    )
