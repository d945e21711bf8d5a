"""The interpretation of a file, shown before anything is sent, and the question about a guess."""

import sys
from typing import Any, Final

import msgspec
from rich.text import Text

from piepowder import console_output
from piepowder.imports.encodings import GuessedEncoding
from piepowder.imports.listing_import import ListingImport
from shared.runtime.user_errors import UserError

_WIDTH: Final = 60


def show_preview(listings: ListingImport) -> None:
    """Show the interpretation, the columns of the fields, and the first items."""
    refused = f", of which {listings.refused:,} cannot be read" if listings.refused else ""
    console_output.show(f"{listings.name}: {listings.listings:,} listings{refused}", "bold")
    shown: dict[str, str] = {}
    for note in listings.notes:
        text = console_output.clean(note.text, 400)
        shown[note.name] = f"{shown[note.name]}; {text}" if note.name in shown else text
    console_output.console.print(console_output.fields(_indented(shown)))
    if listings.mapping:
        columns = {field: f"← {console_output.clean(text, 400)}" for field, text in listings.mapping}
        console_output.console.print(console_output.fields(_indented(columns)))
    items = [(line.number, item) for line in listings.examples if (item := _decoded(line.body)) is not None]
    if items:
        table = console_output.table(listings.unit, "id", "title", "price", "text", "media")
        for number, item in items:
            media = item.get("media")
            pictures = f"{len(media)} × {media[0]}" if isinstance(media, list) and media else media or ""
            price = item.get("price")
            amount = console_output.price(price) if isinstance(price, dict) else price or ""
            cells = (number, item.get("id", ""), item.get("title", ""), amount, item.get("text", ""), pictures)
            table.add_row(*map(_cell, cells))
        console_output.console.print(table)
    console_output.show()


def require_confirmation(listings: ListingImport) -> None:
    """Ask about a guessed encoding, on a terminal; raises `UserError` without a confirmation."""
    guess = listings.guess
    if guess is None or not (sys.stdin.isatty() and console_output.console.is_terminal):
        check_confirmation(listings)
        return
    console_output.show(f"{listings.name} is not UTF-8. Its encoding is a guess: {guess.name}. With it, it reads:")
    for line in _samples(guess):
        console_output.show(f"  | {line}")
    if input("Is this text right? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("Nothing was sent.", "Give the encoding with --encoding.")
    listings.guess = None


def check_confirmation(listings: ListingImport) -> None:
    """Raise `UserError` if the encoding is a guess that nobody has confirmed."""
    if listings.guess is not None:
        raise UserError(
            f"{listings.name} is not UTF-8, and its encoding is a guess: {listings.guess.name}.",
            "If this text is right, repeat the command with --yes; else give the encoding with --encoding.",
            _samples(listings.guess),
        )


def _samples(guess: GuessedEncoding) -> list[str]:
    return [console_output.clean(sample, 200) for sample in guess.samples]


def _indented(values: dict[str, str]) -> dict[str, object]:
    return {f"  {name}": value for name, value in values.items()}


def _decoded(body: bytes) -> dict[str, Any] | None:
    try:
        item = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return item if isinstance(item, dict) else None


def _cell(value: object) -> Text:
    return Text(console_output.clean(value, _WIDTH))
