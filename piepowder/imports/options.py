"""The options of an import. This module is light, because every command loads it."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

FIELDS: Final = (
    "id",
    "version",
    "reference",
    "language",
    "title",
    "text",
    "category",
    "brand",
    "gtin",
    "price",
    "currency",
    "markets",
    "media",
    "seller.id",
    "seller.name",
    "seller.country",
)
"""The fields of an item that a column can have."""


class FileOptions(msgspec.Struct, frozen=True):
    """The options of an import; None or empty means: decided from the file, and stated before anything is sent.

    `mapping` (field → column) takes precedence over columns found by their names. `format` is `csv` or `ndjson`.
    `currency` is the currency of prices that name none; by default that of the markets. `decimal` is `.` or `,`.
    `quoting` is `rfc4180` or `none`. With `number_rows`, the number of a row is its id. `accept_guess` confirms a
    guessed encoding. The default platform is the file's name.
    """

    platform: str | None = None
    format: str | None = None
    kind: str = "product"
    markets: Sequence[str] = ("US",)
    currency: str | None = None
    language: str | None = None
    mapping: Mapping[str, str] = {}
    delimiter: str | None = None
    lenient: bool = False
    encoding: str | None = None
    decimal: str | None = None
    quoting: str | None = None
    sheet: str | None = None
    number_rows: bool = False
    accept_guess: bool = False
