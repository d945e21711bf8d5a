"""Each option that changes the items is stated before anything is sent."""

from pathlib import Path
from typing import Any

import pytest

from piepowder.imports.file_options import FileOptions
from tests.support.listing_files import imported

STATED: dict[str, Any] = {
    "platform": "other",
    "kind": "seller",
    "markets": ["DE"],
    "currency": "EUR",
    "language": "de",
    "mapping": {"title": "x|brand|title"},
    "delimiter": "|",
    "encoding": "latin-1",
    "decimal": ",",
    "quoting": "none",
    "number_rows": False,
}
NOT_STATED = {
    "is_csv": "the kind of the file is visible",
    "sheet": "a workbook always has a note about it",
    "lenient": "each omitted field is counted and shown",
    "accept_guess": "the note about the encoding has the guess",
}


@pytest.mark.parametrize("option", STATED)
def test_an_option_that_changes_the_items_is_stated(tmp_path: Path, option: str) -> None:
    content = "id;image;price;x|brand|title\n1;;5;c|d|e\n"
    default = imported(tmp_path, content, FileOptions(platform="shop", number_rows=True))
    found = imported(
        tmp_path, content, FileOptions(**{"platform": "shop", "number_rows": True, option: STATED[option]})
    )
    assert (found.notes, found.mapping) != (default.notes, default.mapping)


def test_each_option_is_stated_or_has_a_reason() -> None:
    assert set(FileOptions.__struct_fields__) == STATED.keys() | NOT_STATED.keys()
