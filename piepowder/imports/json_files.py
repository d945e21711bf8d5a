"""JSON: items as in `POST /v1/items` (one a line, or one array), records with named values, and JSON-LD products.

Items are sent as they are written, byte for byte except for line breaks between tokens. An array is mapped into memory
and split; each element needs one small object.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from piepowder.imports.files import InputFile
from piepowder.imports.rows import Listing, NamedCells, Note, Number, RecordTable, Refusal, UnknownValue
from shared.runtime.user_errors import UserError
from shared.validation import strict_json

MAX_LINE: Final = 16 * 2**20
_BOM: Final = b"\xef\xbb\xbf"
_IN_ITEM: Final = frozenset({"platform", "kind"})
_SCHEMA: Final = "schema.org"


class _ItemName(msgspec.Struct):
    """The part of an item that identifies it."""

    platform: str = ""
    kind: str = ""
    id: str = ""
    version: int | None = None


_item_name = msgspec.json.Decoder(_ItemName).decode
_values = msgspec.json.Decoder(float_hook=Number).decode


def subject_and_version(body: bytes) -> str:
    """The subject and version of an item; empty if the text has none."""
    try:
        name = _item_name(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return f"{name.platform}:{name.kind}:{name.id}" + ("" if name.version is None else f"@{name.version}")


class Items(NamedTuple):
    """Items as in `POST /v1/items`, sent unchanged; `unit` is the name of their numbers. `listings` returns them in
    order, from the start at each call."""

    unit: str
    note: Note
    listings: Callable[[], Iterator[Listing | Refusal]]


def open_ndjson(source: InputFile) -> Items:
    """Each line is an item. A broken line concerns only itself."""
    note = Note("format", "NDJSON, items as in POST /v1/items, sent unchanged")
    return Items("line", note, lambda: _lines(source))


def _lines(source: InputFile) -> Iterator[Listing | Refusal]:
    file = source.start()
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) >= MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield Refusal(number, 0, f"the line has more than {MAX_LINE >> 20} MB; an item has far less")
        elif body := line.strip():
            yield Listing(number, body)


def _array(source: InputFile, elements: Sequence[msgspec.Raw]) -> Items:
    def listings() -> Iterator[Listing | Refusal]:
        for number, element in _counted(source, elements):
            yield Listing(number, bytes(element).replace(b"\r", b" ").replace(b"\n", b" "))

    note = Note("format", f"JSON array of {len(elements):,} items as in POST /v1/items, sent unchanged")
    return Items("item", note, listings)


def open_json(source: InputFile) -> Items | RecordTable:
    """The items or records of one JSON text; raises `UserError` for other JSON."""
    text = _mapped(source)
    try:
        if text[:1] == b"[":
            elements = msgspec.json.decode(text, type=list[msgspec.Raw])
        else:
            elements = [msgspec.json.decode(text, type=msgspec.Raw)]
            msgspec.json.decode(elements[0], type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{source.name} is not valid JSON ({str(error).removeprefix('JSON is malformed: ')}).",
            "Correct it; or submit one object a line (NDJSON).",
        ) from error
    if not elements:
        raise UserError(f"{source.name} is an empty JSON array.", "Name a file with at least one item.")
    first = _decoded(elements[0])
    if isinstance(first, dict) and _is_linked_data(first):
        return _linked_data(source, elements)
    if isinstance(first, dict) and _IN_ITEM & first.keys():
        return _array(source, elements)
    if text[:1] != b"[" and isinstance(first, dict):
        lists = [name for name, value in first.items() if isinstance(value, list) and dict in map(type, value)]
        if not lists:
            return _array(source, elements)
        raise UserError(
            f"{source.name} is one JSON object with the members {', '.join(list(first)[:8])}.",
            f"Write one object a line: jq -c '.{lists[0]}[]' FILE.",
        )
    if not isinstance(first, dict):
        raise UserError(f"{source.name} is a JSON array, but its elements are not objects.", "Export objects, or CSV.")
    return RecordTable(lambda: _records(source, elements), [Note("format", f"JSON array of {len(elements):,} records")])


def _mapped(source: InputFile) -> Any:
    """The text without white space and mark before it."""
    view = source.mapped()
    start = 3 if bytes(view[:3]) == _BOM else 0
    while start < len(view) and view[start] in b" \t\r\n":
        start += 1
    return view[start:]


def _decoded(raw: Any) -> Any:
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _values(raw)
    return None


def _counted(source: InputFile, elements: Sequence[msgspec.Raw]) -> Iterator[tuple[int, msgspec.Raw]]:
    """The elements with their numbers; their bytes count as read."""
    source.start()
    for number, element in enumerate(elements, 1):
        source.advance(len(memoryview(element)))
        yield number, element


def _records(source: InputFile, elements: Sequence[msgspec.Raw]) -> Iterator[tuple[int, NamedCells] | Refusal]:
    for number, element in _counted(source, elements):
        value = _decoded(element)
        if not isinstance(value, dict):
            yield Refusal(number, 0, "the element is not a JSON object")
            continue
        if strict_json.has_duplicates(bytes(element)):
            yield Refusal(number, 0, "the element has a duplicate object key, so that its value is uncertain")
            continue
        record: dict[str, list[str]] = {}
        for name, member in value.items():
            _flatten(record, name, member)
        yield number, record


def _flatten(record: dict[str, list[str]], name: str, value: Any) -> None:
    """Add a member's text, the texts of a list, or the members of an object: `offers.price`."""
    if isinstance(value, Mapping):
        for part, member in value.items():
            _flatten(record, f"{name}.{part}", member)
    elif isinstance(value, list):
        for element in value:
            if isinstance(element, dict | list):
                record.setdefault(name, []).append(UnknownValue("a list of objects; export one for each listing"))
                return
            _flatten(record, name, element)
    elif value is not None:
        record.setdefault(name, []).append(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_linked_data(value: Mapping[str, Any]) -> bool:
    return _SCHEMA in str(value.get("@context", "")) or "@type" in value or "@graph" in value


def _linked_data(source: InputFile, elements: Sequence[msgspec.Raw]) -> RecordTable:
    """The products of JSON-LD with the vocabulary of schema.org."""

    def read() -> Iterator[tuple[int, NamedCells] | Refusal]:
        number = 0
        for _, element in _counted(source, elements):
            for product in _products(_decoded(element)):
                number += 1
                yield number, _product(product)

    table = RecordTable(read, [Note("format", "JSON-LD products (schema.org)")])
    if not table.header:
        raise UserError(f"{source.name} is JSON-LD without a Product.", "Name a file with products.")
    return table


def _products(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if depth > 8:
        return
    if isinstance(value, list):
        for element in value:
            yield from _products(element, depth + 1)
    elif isinstance(value, dict):
        kinds = value.get("@type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if any(
            str(kind).rpartition("/")[2].removeprefix("schema:") in ("Product", "IndividualProduct") for kind in kinds
        ):
            yield value
            return
        for name in ("@graph", "itemListElement", "item", "mainEntity", "hasVariant"):
            yield from _products(value.get(name), depth + 1)


def _product(product: Mapping[str, Any]) -> NamedCells:
    """A product with the names of columns: the names of its brand, the URLs of its pictures, its only offer."""
    record: dict[str, list[str]] = {}
    for name, value in product.items():
        if name in ("brand", "manufacturer"):
            _flatten(record, name, [_name(one) for one in _as_list(value)])
        elif name == "image":
            _flatten(record, name, [_url(one) for one in _as_list(value)])
        elif name == "offers":
            _add_offer(record, _as_list(value))
        elif name not in ("@type", "@context"):
            _flatten(record, {"productID": "product_id", "@id": "identifier"}.get(name, name), value)
    return record


def _add_offer(record: dict[str, list[str]], offers: Sequence[Any]) -> None:
    objects = [offer for offer in offers if isinstance(offer, dict)]
    if len(objects) > 1 or (objects and "lowPrice" in objects[0] and "price" not in objects[0]):
        record["price"] = [UnknownValue("the product has several offers, so its price is uncertain")]
        return
    for offer in objects:
        for name, value in offer.items():
            if name in ("price", "priceCurrency", "sku", "gtin", "gtin13", "gtin12", "gtin8", "gtin14"):
                if name not in record:
                    _flatten(record, name, value)
            elif name != "@type":
                _flatten(record, f"offers.{name}", value)


def _url(value: Any) -> Any:
    return value.get("url") or value.get("contentUrl") if isinstance(value, dict) else value


def _name(value: Any) -> Any:
    return value.get("name") if isinstance(value, dict) else value


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
