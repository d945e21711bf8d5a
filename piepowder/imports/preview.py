"""The interpretation of a file, shown before anything is sent, and the question about a guess."""

import sys
from typing import Any, Final

import msgspec
from rich.text import Text

from piepowder import console_output
from piepowder.imports import currencies
from piepowder.imports.listing_import import ListingImport
from piepowder.imports.options import FileOptions
from shared.runtime.user_errors import UserError

_WIDTH: Final = 60


def show_preview(listings: ListingImport) -> None:
    """Show the interpretation, the columns of the fields, and the first items."""
    found = listings.findings
    refused = f", of which {found.refused:,} cannot be read" if found.refused else ""
    console_output.show(f"{listings.name}: {found.rows:,} listings{refused}", "bold")
    shown: dict[str, str] = {}
    for note in listings.notes:
        text = console_output.clean(note.text, 400)
        shown[note.name] = f"{shown[note.name]}; {text}" if note.name in shown else text
    console_output.console.print(console_output.fields(_indented(shown)))
    if listings.mapping:
        columns = {field: f"← {console_output.clean(text, 400)}" for field, text in listings.mapping}
        console_output.console.print(console_output.fields(_indented(columns)))
    items = [item for line in found.examples if (item := _decoded(line.body)) is not None]
    if items:
        table = console_output.table(listings.unit, "id", "title", "price", "text", "media")
        for line, item in zip(found.examples, items, strict=False):
            price = item.get("price")
            amount = console_output.price(price, currencies.decimals(str(price.get("currency")))) if price else ""
            cells = (line.number, item.get("id", ""), item.get("title", ""), amount, item.get("text", ""))
            media = item.get("media", [])
            table.add_row(*(_cell(cell) for cell in cells), _cell(f"{len(media)} × {media[0]}" if media else ""))
        console_output.console.print(table)
    console_output.show()


def require_confirmation(listings: ListingImport, options: FileOptions) -> None:
    """Ask about a guessed encoding, on a terminal; raises `UserError` without a confirmation."""
    guess = listings.guess
    if guess is None or options.accept_guess:
        return
    lines = [console_output.clean(sample, 200) for sample in guess.samples]
    if sys.stdin.isatty() and console_output.console.is_terminal:
        console_output.show(f"{listings.name} is not UTF-8. Its encoding is a guess: {guess.name}. With it, it reads:")
        for line in lines:
            console_output.show(f"  | {line}")
        if input("Is this text right? [y/N] ").strip().lower() in ("y", "yes"):
            return
        raise UserError("Nothing was sent.", "Give the encoding with --encoding.")
    raise UserError(
        f"{listings.name} is not UTF-8, and its encoding is a guess: {guess.name}.",
        "If this text is right, repeat the command with --yes; else give the encoding with --encoding.",
        lines,
    )


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
