"""Product feeds in XML (RSS 2.0, RSS 1.0 or Atom), read one item at a time.

Only the children of the channel or feed are items: an element with the name of an item inside another one is part of
its text. An element of Google's namespace takes precedence over one of the feed with the same name. Source: Google
Merchant Center, product data specification; RFC 4287.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from html import escape
from itertools import islice
from typing import Any, Final, NamedTuple
from xml.etree.ElementTree import Element, ParseError, tostring
from xml.parsers.expat import errors

from defusedxml import DefusedXmlException, EntitiesForbidden
from defusedxml.ElementTree import iterparse

from piepowder.imports.fields import FIELDS
from piepowder.imports.files import InputFile
from piepowder.imports.rows import NamedCells, Note, RecordTable, Refusal
from piepowder.imports.shop_formats import plain_name
from shared.runtime.user_errors import UserError


class _Format(NamedTuple):
    """A format of feeds: its name, the prefix of its own elements, and the local names from the root to an item."""

    name: str
    prefix: str
    path: tuple[str, ...]


_FORMATS: Final = {
    "rss": _Format("RSS", "rss", ("rss", "channel", "item")),
    "feed": _Format("Atom", "atom", ("feed", "entry")),
    "RDF": _Format("RSS 1.0", "rss", ("RDF", "item")),
}
_OTHERS: Final = {
    "html": ("an HTML page", "Export the listings as CSV, XLSX or a product feed."),
    "urlset": ("a sitemap", "Export the listings as CSV, XLSX or a product feed."),
    "AmazonEnvelope": ("an Amazon feed for upload", "Export the listings report as text (TSV)."),
    "BMECAT": ("a BMEcat catalogue", "Convert it to CSV."),
    "yml_catalog": ("a Yandex catalogue", "Convert it to CSV."),
    "Workbook": ("a spreadsheet in the XML of Excel 2003", "Save it as XLSX or CSV."),
    "svg": ("an SVG picture", "Name a file of listings."),
}
_GOOGLE: Final = re.compile(r"https?://base\.google\.com/ns/1\.0/?")
_XML: Final = "http://www.w3.org/XML/1998/namespace"
_TEXTS: Final = frozenset({"summary", "content", *FIELDS["title"].names.split(), *FIELDS["text"].names.split()})
"""Elements whose children are the markup of a text."""
_MAX_DEPTH: Final = 100
_SHOWN: Final = 20
_FAULTS: Final = {
    errors.XML_ERROR_INVALID_TOKEN: (
        "has a bare & or <, or a character that XML does not allow",
        "Write &amp; or &lt;, and remove control characters.",
    ),
    errors.XML_ERROR_UNDEFINED_ENTITY: (
        "has an entity that is not one of XML, such as &nbsp;",
        "Write the character itself, or its number (&#160;).",
    ),
    errors.XML_ERROR_MISPLACED_XML_PI: ("has text or white space before <?xml", "Delete what is before it."),
    errors.XML_ERROR_UNBOUND_PREFIX: (
        "has a prefix without a declaration",
        'Declare it in the root element: xmlns:g="http://base.google.com/ns/1.0".',
    ),
    errors.XML_ERROR_TAG_MISMATCH: ("closes another element than the last one", "Write HTML in a text as CDATA."),
    errors.XML_ERROR_NO_ELEMENTS: ("is the end, but an element is not closed", "Export the feed again."),
    errors.XML_ERROR_UNCLOSED_TOKEN: ("begins a tag or section that is not closed", "Export the feed again."),
    errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT: ("has text after the end of the root element", "Delete it."),
}


def open_feed(source: InputFile) -> RecordTable:
    """The table of a feed; raises `UserError` for other XML."""
    root = _root(source)
    if root not in _FORMATS:
        what, advice = _OTHERS.get(
            root, (f"XML with the root element <{root}>", "Product feeds (RSS or Atom) are read; convert this to CSV.")
        )
        raise UserError(f"{source.name} is {what}.", advice)
    feed = _FORMATS[root]
    item = feed.path[-1]
    table = RecordTable(lambda: _records(source, feed), [Note("format", f"XML product feed ({feed.name})")])
    if not table.header:
        if table.first_refusal is not None:
            number, _, fault = table.first_refusal
            raise UserError(f"No <{item}> of {source.name} can be read; {number}: {fault}.", "Export the feed again.")
        where = "".join(f"<{name}>" for name in feed.path[:-1])
        raise UserError(
            f"{source.name} is {feed.name} without a single <{item}> in {where}.", "Name a feed with products."
        )
    differing = [name.replace(":", "_") for name in table.header if name.startswith(f"{feed.prefix}:")]
    if differing:
        used = "if Google's element (g:) differs from that of the feed, it is used, and the other is an attribute"
        table.add_note(Note("two values", f"{used}: {', '.join(differing)}"))
    return table


def _root(source: InputFile) -> str:
    for event, element in _parsed(source):
        if event == "start":
            return local_name(element.tag)
    raise UserError(f"{source.name} is empty XML.", "Name a feed with products.")


def _records(source: InputFile, feed: _Format) -> Iterator[tuple[int, NamedCells] | Refusal]:
    number = depth = 0
    prefixes = {_XML: "xml"}
    opened: list[Element] = []
    for event, value in _parsed(source):
        if event == "start-ns":
            _declare(prefixes, *value, reserved=feed.prefix)
        elif event == "start":
            opened.append(value)
            depth = max(depth, len(opened))
        else:
            opened.pop()
            if len(opened) != len(feed.path) - 1:
                continue
            if tuple(local_name(element.tag) for element in (*opened, value)) == feed.path:
                number += 1
                if depth > _MAX_DEPTH:
                    yield Refusal(
                        number, 0, f"its elements are nested more than {_MAX_DEPTH} deep; write HTML as CDATA"
                    )
                else:
                    yield number, _Record(value, prefixes, feed.prefix).cells
            depth = 0
            opened[-1].remove(value)


def _declare(prefixes: dict[str, str], prefix: str, namespace: str, *, reserved: str) -> None:
    """Keep the first prefix of a namespace; two namespaces have different prefixes."""
    if namespace not in prefixes:
        taken = {reserved, "", *prefixes.values()}
        prefixes[namespace] = prefix if prefix not in taken else f"{prefix or 'ns'}{len(prefixes)}"


class _Record:
    """The texts of an item by the names of columns: `price` and `price.currency` (its XML attribute), `shipping.price`
    (a part), `media:content.url` (another namespace)."""

    def __init__(self, item: Element, prefixes: Mapping[str, str], own_prefix: str) -> None:
        self._prefixes = prefixes
        self._own = _namespace(item.tag)
        self.cells: dict[str, list[str]] = {}
        own: dict[str, list[str]] = {}
        for name, text in item.items():
            self._add(own, f"item.{self._name(name)}", text)
        for child in item:
            self._add_element(self.cells if _is_google(_namespace(child.tag)) else own, child, "")
        for name, texts in own.items():
            if name not in self.cells:
                self.cells[name] = texts
            elif self.cells[name] != texts:
                self.cells[f"{own_prefix}:{name}"] = texts

    def _add_element(self, record: dict[str, list[str]], element: Element, parent: str) -> None:
        name = f"{parent}{self._name(element.tag)}"
        is_link = name == "link" and not (element.text or "").strip()
        for attribute, text in element.items():
            self._add(record, name if is_link and attribute == "href" else f"{name}.{self._name(attribute)}", text)
        if _has_markup(element, name):
            self._add(record, name, _markup(element))
            return
        self._add(record, name, element.text or "")
        for child in element:
            self._add_element(record, child, f"{name}.")

    def _add(self, record: dict[str, list[str]], name: str, text: str) -> None:
        if text := text.strip():
            record.setdefault(name, []).append(text)

    def _name(self, tag: str) -> str:
        namespace = _namespace(tag)
        if namespace in ("", self._own) or _is_google(namespace):
            return local_name(tag)
        return f"{self._prefixes[namespace]}:{local_name(tag)}"


def _has_markup(element: Element, name: str) -> bool:
    """True if the children of an element are the markup of a text, and not its parts."""
    if not len(element):
        return False
    texts = (element.text, *(child.tail for child in element))
    return any((text or "").strip() for text in texts) or plain_name(name) in _TEXTS


def _markup(element: Element) -> str:
    """The content of an element as HTML, so that its links are visible."""
    for part in element.iter():
        part.tag = local_name(part.tag)
    children = (tostring(child, encoding="unicode", method="html") for child in element)
    return "".join([escape(element.text or "", quote=False), *children])


def _parsed(source: InputFile) -> Iterator[tuple[str, Any]]:
    """The events of the parser; raises `UserError` for faulty XML."""
    try:
        yield from iterparse(source.start(), events=("start", "end", "start-ns"), forbid_dtd=False)
    except ParseError as error:
        line, column = error.position
        reason = errors.messages.get(error.code, "unknown")
        fault, advice = _FAULTS.get(reason, (f"has a fault ({reason})", "Correct it there."))
        excerpt = _excerpt(source, line, column)
        if "\ufffd" in excerpt:
            fault, advice = (
                "has a byte that is not UTF-8",
                "Declare the encoding in the first line, or save it as UTF-8.",
            )
        raise UserError(
            f"{source.name} is not well-formed XML: line {line:,}, column {column + 1:,} {fault}{excerpt}.", advice
        ) from error
    except EntitiesForbidden as error:
        raise UserError(
            f"{source.name} declares the entity {error.name!r}, and entities are not accepted.",
            "Write its text instead, and remove the document type.",
        ) from error
    except DefusedXmlException as error:
        raise UserError(
            f"{source.name} refers to another file, which is not read.", "Remove the document type."
        ) from error
    except (LookupError, ValueError) as error:
        raise UserError(
            f"{source.name} is XML in an encoding that cannot be read.", "Save it as UTF-8, and declare that."
        ) from error


def _excerpt(source: InputFile, line: int, column: int) -> str:
    """The text around a place of a file in UTF-8."""
    text = next(islice(source.start(), line - 1, None), b"").decode(errors="replace")
    start = max(0, column - _SHOWN)
    shown = "" if "\0" in text else " ".join(text[start : column + _SHOWN].split())
    return f" ({shown!r})" if shown else ""


@lru_cache(maxsize=1024)
def local_name(tag: str) -> str:
    """The name of an XML element without its namespace."""
    return tag.rpartition("}")[2]


@lru_cache(maxsize=1024)
def _namespace(tag: str) -> str:
    return tag.rpartition("}")[0].removeprefix("{")


@lru_cache(maxsize=64)
def _is_google(namespace: str) -> bool:
    return _GOOGLE.fullmatch(namespace) is not None
