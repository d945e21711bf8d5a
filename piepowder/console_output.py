"""Output to the terminal. Texts of items are untrusted: they are shown without markup and control characters, so that
no item can control the reviewer's terminal."""

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from piepowder.currency_decimals import decimals
from shared.runtime.user_errors import sentence

# Control characters, half surrogate pairs, and characters that are not displayed or change the direction of others.
_CONTROL: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)
_WIDE: Final = 160
_TOO_LARGE: Final = 2**63

console: Final = Console(highlight=False, markup=False, emoji=False)
errors: Final = Console(stderr=True, highlight=False, markup=False, emoji=False)
if not console.is_terminal:
    console.width = _WIDE
if not errors.is_terminal:
    errors.width = _WIDE


def clean(text: object, longest: int = 2000) -> str:
    """Untrusted text without control characters, cut after `longest` characters."""
    shown = _CONTROL.sub("·", str(text))
    return shown if len(shown) <= longest else shown[:longest] + "…"


def show(text: object = "", style: str = "") -> None:
    """Write a line to standard output."""
    console.print(Text(str(text), style=style), soft_wrap=True)


def warn(text: object) -> None:
    """Write a warning to standard error."""
    errors.print(Text(sentence(str(text)), style="yellow"), soft_wrap=True)


def show_error(text: object) -> None:
    """Write a failure to standard error."""
    errors.print(Text(sentence(str(text)), style="red"), soft_wrap=True)


def table(*columns: str, right: int = 0) -> Table:
    """An empty table whose last `right` columns hold numbers."""
    empty = Table(box=None, pad_edge=False, header_style="dim")
    for at, column in enumerate(columns):
        empty.add_column(column, justify="right" if at >= len(columns) - right else "left", overflow="fold")
    return empty


def fields(values: Mapping[str, object]) -> Table:
    """Names and values, one per line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return grid


def relative(path: str | Path) -> str:
    """A path, relative to the current folder if it is inside this folder."""
    return str(path).removeprefix(f"{Path.cwd()}/")


def price(value: Mapping[str, object] | None) -> str:
    """A price in major units with its currency; a value that is no price, as it is."""
    if not value:
        return ""
    minor, currency = value.get("amount_minor"), str(value.get("currency"))
    if type(minor) is not int or abs(minor) >= _TOO_LARGE:
        return str(value)
    digits = decimals(currency)
    return f"{Decimal(minor).scaleb(-digits):,.{digits}f} {currency}"
