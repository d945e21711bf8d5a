"""Tables of records with named values: XML product feeds, JSON objects, JSON-LD products.

The columns are the union of the names of all records, so the file is read twice. Several values of a name are one cell
with a line for each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from piepowder.imports.cells import Note, NoValue, TableRow
from piepowder.imports.lines import Refusal

NamedCells = Mapping[str, Sequence[str]]


class RecordTable:
    """A table of records; `read` returns them with their numbers, from the start at each call. A record that is not
    one is its refusal."""

    unit = "item"

    def __init__(self, read: Callable[[], Iterator[tuple[int, NamedCells] | Refusal]], notes: Sequence[Note]) -> None:
        self._read = read
        self._notes = list(notes)
        names: dict[str, int] = {}
        for record in read():
            if not isinstance(record, Refusal):
                for name in record[1]:
                    names.setdefault(name, len(names))
        self._at = names
        self.header: Sequence[str] = list(names)

    def notes(self) -> list[Note]:
        return self._notes

    def rows(self) -> Iterator[TableRow | Refusal]:
        for record in self._read():
            if isinstance(record, Refusal):
                yield record
                continue
            number, fields = record
            cells = [""] * len(self._at)
            for name, texts in fields.items():
                cells[self._at[name]] = texts[0] if len(texts) == 1 else _joined(texts)
            yield TableRow(number, cells)


def _joined(texts: Sequence[str]) -> str:
    unknown = next((text for text in texts if isinstance(text, NoValue)), None)
    return "\n".join(texts) if unknown is None else unknown
