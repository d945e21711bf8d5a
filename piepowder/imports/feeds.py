"""Google product feeds in XML (RSS 2.0 or Atom), read one item at a time.

Source: Google Merchant Center, product data specification; elements of the namespace `g` and of the feed itself.
"""

from collections.abc import Iterator
from typing import Any, Final
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from piepowder.imports.files import InputFile
from piepowder.imports.rows import NamedCells, Note, RecordTable
from shared.runtime.user_errors import UserError

_ROOTS: Final = {"rss": "item", "feed": "entry", "RDF": "item"}
_FORMATS: Final = {"rss": "RSS", "feed": "Atom", "RDF": "RSS 1.0"}
_OTHERS: Final = {
    "html": ("an HTML page", "Export the listings as CSV, XLSX or a product feed."),
    "urlset": ("a sitemap", "Export the listings as CSV, XLSX or a product feed."),
    "AmazonEnvelope": ("an Amazon feed for upload", "Export the listings report as text (TSV)."),
    "BMECAT": ("a BMEcat catalogue", "Convert it to CSV."),
    "yml_catalog": ("a Yandex catalogue", "Convert it to CSV."),
    "Workbook": ("a spreadsheet in the XML of Excel 2003", "Save it as XLSX or CSV."),
    "svg": ("an SVG picture", "Name a file of listings."),
}


def open_feed(source: InputFile) -> RecordTable:
    """The table of a feed; raises `UserError` for other XML."""
    root = _root(source)
    if root not in _ROOTS:
        what, advice = _OTHERS.get(
            root, (f"XML with the root element <{root}>", "Product feeds (RSS or Atom) are read; convert this to CSV.")
        )
        raise UserError(f"{source.name} is {what}.", advice)
    table = RecordTable(
        lambda: _records(source, _ROOTS[root]), [Note("format", f"XML product feed ({_FORMATS[root]})")]
    )
    if not table.header:
        raise UserError(
            f"{source.name} is {_FORMATS[root]} without a single <{_ROOTS[root]}>.", "Name a feed with products."
        )
    return table


def _root(source: InputFile) -> str:
    for _, element in _parsed(source, "start"):
        return local_name(element.tag)
    raise UserError(f"{source.name} is empty XML.", "Name a feed with products.")


def _records(source: InputFile, wanted: str) -> Iterator[tuple[int, NamedCells]]:
    number = 0
    for _, element in _parsed(source, "end"):
        if local_name(element.tag) == wanted:
            number += 1
            record: dict[str, list[str]] = {}
            for child in element:
                _add(record, child, "")
            element.clear()
            if record:
                yield number, record


def _add(record: dict[str, list[str]], element: Any, parent: str) -> None:
    """Add an element's text, or those of its parts: `shipping.price`."""
    name = f"{parent}{local_name(element.tag)}"
    is_mixed = any((text or "").strip() for text in (element.text, *(child.tail for child in element)))
    text = "".join(element.itertext()) if is_mixed or not len(element) else ""
    if not text.strip() and element.get("href"):  # Atom's link
        text = element.get("href")
    if text.strip():
        record.setdefault(name, []).append(text.strip())
    for child in () if is_mixed else element:
        _add(record, child, f"{name}.")


def _parsed(source: InputFile, event: str) -> Iterator[tuple[str, Any]]:
    try:
        yield from iterparse(source.start(), events=(event,), forbid_dtd=False)
    except ParseError as error:
        line, column = error.position
        raise UserError(
            f"{source.name} is not well-formed XML (line {line:,}, column {column:,}).", "Correct it there."
        ) from error
    except (DefusedXmlException, LookupError, ValueError) as error:
        raise UserError(
            f"{source.name} is XML with an entity or an encoding that is not accepted ({error}).",
            "Export it again without a document type, as UTF-8.",
        ) from error


def local_name(tag: str) -> str:
    """The name of an XML element without its namespace."""
    return tag.rpartition("}")[2]
