"""The options of an import. This module is light, because every command loads it."""

from collections.abc import Mapping, Sequence

import msgspec

_DEFAULT_MARKETS = ("US",)


class FileOptions(msgspec.Struct, frozen=True):
    """The options of an import.

    These are found in the file, and stated before anything is sent, if they are None: `delimiter`, `quoting` (`rfc4180`
    or `none`), `encoding`, `decimal` (the separator of prices, `.` or `,`). Other defaults: `platform` is the name of
    the file, `markets` are US, `currency` (of prices that name none) is that of the markets, `language` is not sent,
    `sheet` is the only one with data, or the file is refused.

    `mapping` (field → column) takes precedence over columns that are found by their names. `is_csv`: the file is
    delimited text, although it starts like JSON or XML. `number_rows`: the id of a listing is its position in the file.
    `lenient`: a faulty optional field is left out. `accept_guess` confirms a guessed encoding.
    """

    platform: str | None = None
    is_csv: bool = False
    kind: str = "product"
    markets: Sequence[str] = ()
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

    @property
    def default_markets(self) -> tuple[str, ...]:
        """The markets of a listing that names none."""
        return tuple(self.markets) or _DEFAULT_MARKETS
