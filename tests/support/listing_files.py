"""Files of listings for tests: their import, and workbooks with any kind of cell."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias
from xml.sax.saxutils import escape

import msgspec

from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing, Refusal

SHOP: Final = FileOptions(platform="shop")
GERMAN: Final = FileOptions(platform="shop", markets=["DE"])


class Imported(NamedTuple):
    """The result of an import: all lines, the items, the refusals, and the interpretation."""

    lines: list[Listing | Refusal]
    items: list[dict[str, Any]]
    refusals: list[Refusal]
    notes: dict[str, str]
    mapping: dict[str, str]
    guess: str | None

    @property
    def item(self) -> dict[str, Any]:
        """The only item; no line is refused."""
        assert not self.refusals
        [item] = self.items
        return item

    @property
    def refusal(self) -> str:
        """The reason of the only refusal; no line is accepted."""
        assert not self.items
        [refusal] = self.refusals
        return refusal.detail


def imported(folder: Path, content: bytes | str, options: FileOptions = SHOP, name: str = "listings.csv") -> Imported:
    """Write a file into `folder`, and import it."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with open_import(str(path), options) as listings:
        lines = list(listings.read())
        return Imported(
            lines,
            [msgspec.json.decode(line.body) for line in lines if isinstance(line, Listing)],
            [line for line in lines if isinstance(line, Refusal)],
            {note.name: note.text for note in listings.notes},
            dict(listings.mapping),
            None if listings.guess is None else listings.guess.name,
        )


class Cell(NamedTuple):
    """A cell of a workbook as XML: its type, style (1: a date, 2: `00000`, 3: euros, 4 and 5:
    places with texts, 6: a built-in currency, 7: a text and thousands), formula and stored value."""

    value: str | None = None
    kind: str = "n"
    style: int = 0
    formula: str | None = None


CellValue: TypeAlias = str | float | bool | Cell | None
_NAMESPACE: Final = "http://schemas.openxmlformats.org"
_RELATIONS: Final = f"{_NAMESPACE}/officeDocument/2006/relationships"
_STYLES: Final = (
    '<numFmts count="5"><numFmt numFmtId="172" formatCode="&quot;SKU-&quot;0000"/>'
    '<numFmt numFmtId="173" formatCode="000\\-0000"/><numFmt numFmtId="174" formatCode="&quot;No. &quot;#,##0"/>'
    '<numFmt numFmtId="170" formatCode="00000"/>'
    '<numFmt numFmtId="171" formatCode="#,##0.00\\ [$€-407]"/></numFmts>'
    '<cellXfs count="8"><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="170"/><xf numFmtId="171"/>'
    '<xf numFmtId="172"/><xf numFmtId="173"/><xf numFmtId="7"/><xf numFmtId="174"/></cellXfs>'
)


def workbook(sheets: Mapping[str, Sequence[Sequence[CellValue]]]) -> bytes:
    """An XLSX workbook; a row is a list of values, None is an empty cell."""
    file = io.BytesIO()
    names = list(sheets)
    listed = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="s{n}"/>' for n, name in enumerate(names, 1))
    targets = {f"s{n}": ("worksheet", f"worksheets/sheet{n}.xml") for n, _ in enumerate(names, 1)}
    main = f"{_NAMESPACE}/spreadsheetml/2006/main"
    package = f"{_NAMESPACE}/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
        "_rels/.rels": _relations(package, {"w": ("officeDocument", "xl/workbook.xml")}),
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{_RELATIONS}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _relations(package, targets | {"y": ("styles", "styles.xml")}),
        "xl/styles.xml": f'<styleSheet xmlns="{main}">{_STYLES}</styleSheet>',
    }
    for number, rows in enumerate(sheets.values(), 1):
        cells = "".join(f'<row r="{at}">{_row(at, row)}</row>' for at, row in enumerate(rows, 1))
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>'
        )
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')
    return file.getvalue()


def _relations(package: str, targets: Mapping[str, tuple[str, str]]) -> str:
    parts = "".join(
        f'<Relationship Id="{name}" Type="{_RELATIONS}/{kind}" Target="{target}"/>'
        for name, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="{package}/relationships">{parts}</Relationships>'


def _row(number: int, values: Sequence[CellValue]) -> str:
    return "".join(_cell(f"{chr(65 + at)}{number}", value) for at, value in enumerate(values) if value is not None)


def _cell(place: str, value: str | float | bool | Cell) -> str:
    if isinstance(value, Cell):
        formula = "" if value.formula is None else f"<f>{value.formula}</f>"
        stored = "" if value.value is None else f"<v>{value.value}</v>"
        return f'<c r="{place}" t="{value.kind}" s="{value.style}">{formula}{stored}</c>'
    if isinstance(value, str):
        return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'
    if isinstance(value, bool):
        return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
    return f'<c r="{place}"><v>{value!r}</v></c>'
