"""JSON: items as in `POST /v1/items`, records with named values, and JSON-LD products; in lines or in one array.

The members of most objects decide: items have a platform and a kind. They are sent as they are written, byte for byte
except for line breaks between tokens. Other objects are records, read as a table. A faulty line or element concerns
only itself. An array is mapped into memory and split; each element needs one small object.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from shlex import quote
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from piepowder.imports.files import InputFile
from piepowder.imports.rows import Listing, NamedCells, Note, Number, RecordTable, Refusal, UnknownValue, quoted
from shared.runtime.user_errors import UserError
from shared.validation import strict_json

MAX_LINE: Final = 16 * 2**20
_BOM: Final = b"\xef\xbb\xbf"
_SCHEMA: Final = "schema.org"
_PLACE: Final = re.compile(r"(?P<reason>.*) \(byte (?P<at>[0-9]+)\)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_ITEM: Final = "it has no platform and kind, which most objects of the file have"
_ONE: Final = "JSON, "
_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Identity(msgspec.Struct):
    """The members of an item that identify it."""

    platform: Any = None
    kind: Any = None
    id: Any = None
    version: Any = None

    @property
    def is_item(self) -> bool:
        return self.platform is not None and self.kind is not None


_identity = msgspec.json.Decoder(_Identity).decode
_values = msgspec.json.Decoder(float_hook=Number).decode
_Texts: TypeAlias = Callable[[], Iterator[tuple[int, bytes] | Refusal]]
"""The JSON texts of a file with their numbers, from the start at each call."""


def subject_and_version(body: bytes) -> str:
    """The subject and version of an item; empty if the text has none."""
    try:
        item = _identity(body)
    except _FAULTS:
        return ""
    if not item.is_item or item.id is None:
        return ""
    return f"{item.platform}:{item.kind}:{item.id}" + ("" if item.version is None else f"@{item.version}")


class Items(NamedTuple):
    """Items as in `POST /v1/items`, sent unchanged; `unit` is the name of their numbers. `listings` returns them in
    order, from the start at each call."""

    unit: str
    note: Note
    listings: Callable[[], Iterator[Listing | Refusal]]


def open_ndjson(source: InputFile) -> Items | RecordTable:
    """The items or records of the lines; raises `UserError` if no line can be read."""
    return _content(source, "NDJSON, ", "line", lambda: _lines(source))


def _lines(source: InputFile) -> Iterator[tuple[int, bytes] | Refusal]:
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
            yield number, body


def open_json(source: InputFile) -> Items | RecordTable:
    """The items or records of one array, or the item or products of one object; raises `UserError` for other JSON."""
    view: Any = source.mapped()
    start = 3 if bytes(view[:3]) == _BOM else 0
    while start < len(view) and view[start] in b" \t\r\n":
        start += 1
    text = view[start:]
    try:
        if text[:1] == b"[":
            elements = msgspec.json.decode(text, type=list[msgspec.Raw])
        else:
            elements = [msgspec.json.decode(text, type=msgspec.Raw)]
    except _FAULTS as error:
        raise _malformed(source.name, view, start, error) from error
    if not elements:
        raise UserError(f"{source.name} is an empty JSON array.", "Name a file with at least one item.")

    def read() -> Iterator[tuple[int, bytes]]:
        source.start()
        for number, element in enumerate(elements, 1):
            body = bytes(element)
            source.advance(len(body))
            yield number, body.replace(b"\r", b" ").replace(b"\n", b" ")

    form = f"JSON array of {len(elements):,} " if text[:1] == b"[" else _ONE
    return _content(source, form, "item", read)


def _malformed(name: str, view: Any, start: int, error: Exception) -> UserError:
    reason = _reason(error, view[start:])
    place = _PLACE.fullmatch(reason)
    if place is not None:
        before = bytes(view[: start + int(place["at"])])
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        reason = f"line {line:,}, column {column:,}: {place['reason']}"
    several = reason.endswith("trailing characters")
    return UserError(
        f"{name} is not valid JSON ({reason}).",
        "Write one object a line: jq -c . FILE." if several else "Correct it; or submit one object a line (NDJSON).",
    )


def _reason(error: Exception, text: Any) -> str:
    """The reason why a text is not JSON."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8: byte 0x{error.object[error.start]:02X}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if (surrogate := strict_json.has_lone_surrogate(text)) is not None:
        return f"a \\u escape is half of a surrogate pair (byte {surrogate.start()})"
    if str(error) == "Input data was truncated":
        return "it ends before its last bracket or quotation mark"
    return str(error).removeprefix("JSON is malformed: ").partition(" - at `")[0]


def _content(source: InputFile, form: str, unit: str, read: _Texts) -> Items | RecordTable:
    """The items of a file in which most objects are items; else its records or products. The member names of one
    object, which may be those of a seller, decide nothing for the others."""
    first: dict[str, Any] | None = None
    items = records = 0
    for text in read():
        if isinstance(text, Refusal):
            continue
        fault = _item_fault(text[1])
        items += not fault
        records += fault == _NO_ITEM
        if first is None and fault in ("", _NO_ITEM):
            with suppress(ValueError):
                first = _object(text[1])
    if items > records:
        note = Note("format", f"{form}items as in POST /v1/items, sent unchanged")
        return Items(unit, note, lambda: _listings(read))
    if first is not None and _is_linked_data(first):
        table = RecordTable(lambda: _products(read), [Note("format", "JSON-LD products (schema.org)")])
        missing = UserError(f"{source.name} is JSON-LD without a Product.", "Name a file with products.")
    elif first is not None and form is _ONE:
        raise _one_object(source.name, first)
    else:
        table = RecordTable(lambda: _records(read), [Note("format", f"{form}records")], unit)
        missing = UserError(f"The objects of {source.name} have no members.", "Export objects with values, or CSV.")
    if not table.header:
        if table.first_refusal is None:
            raise missing
        number, _, fault = table.first_refusal
        raise UserError(
            f"No {unit} of {source.name} can be read; {unit} {number:,}: {fault}.",
            f"Write one object {'a line (jq -c . FILE)' if unit == 'line' else 'for each listing'}, as UTF-8.",
        )
    return table


def _listings(read: _Texts) -> Iterator[Listing | Refusal]:
    for text in read():
        if isinstance(text, Refusal):
            yield text
        elif fault := _item_fault(text[1]):
            yield Refusal(text[0], 0, fault)
        else:
            yield Listing(*text)


def _item_fault(text: bytes) -> str:
    """The reason why a text is not an item; empty if it is one."""
    try:
        if _identity(text).is_item:
            return ""
    except _FAULTS as error:
        is_other = str(error).startswith("Expected `object`")
        return "it is not a JSON object" if is_other else f"it is not valid JSON ({_reason(error, text)})"
    return _NO_ITEM


def _one_object(name: str, value: Mapping[str, Any]) -> UserError:
    """The error for an object that is neither an item nor JSON-LD."""
    members = f"with the members {', '.join(list(value)[:8])}" if value else "without members"
    what = f"{name} is one JSON object {members}."
    path = _list_of_objects(value)
    if not path:
        return UserError(what, "If it is a listing, write it as an array ([…]); an item has a platform and a kind.")
    steps = "".join(
        f".{step}" if _NAME.fullmatch(step) else f".[{msgspec.json.encode(step).decode()}]" for step in path
    )
    return UserError(what, f"Write one object a line: jq -c {quote(f'{steps}[]')} FILE.")


def _list_of_objects(value: Mapping[str, Any], depth: int = 4) -> list[str]:
    """The names that lead to the first list of objects, the shortest first; none if there is no list."""
    for name, member in value.items():
        if isinstance(member, list) and dict in map(type, member):
            return [name]
    paths = (
        [name, *path]
        for name, member in value.items()
        if isinstance(member, dict) and depth and (path := _list_of_objects(member, depth - 1))
    )
    return next(paths, [])


def _objects(read: _Texts) -> Iterator[tuple[int, dict[str, Any]] | Refusal]:
    for text in read():
        if isinstance(text, Refusal):
            yield text
            continue
        try:
            yield text[0], _object(text[1])
        except ValueError as error:
            yield Refusal(text[0], 0, str(error))


def _object(text: bytes) -> dict[str, Any]:
    """A decoded object; raises ValueError with the reason if the text is another, or has a duplicate key."""
    try:
        value = _values(text)
    except _FAULTS as error:
        raise ValueError(f"it is not valid JSON ({_reason(error, text)})") from error
    if not isinstance(value, dict):
        raise strict_json.MalformedJsonError("it is not a JSON object")
    if strict_json.has_duplicates(text):
        path = next(strict_json.duplicates(strict_json.decode(text)))
        raise ValueError(f"it has the key {quoted(str(path[-1]))} twice, so that its value is uncertain")
    return value


def _records(read: _Texts) -> Iterator[tuple[int, NamedCells] | Refusal]:
    for record in _objects(read):
        if isinstance(record, Refusal):
            yield record
            continue
        cells: dict[str, list[str]] = {}
        for name, member in record[1].items():
            _flatten(cells, name, member)
        yield record[0], cells


def _flatten(record: dict[str, list[str]], name: str, value: Any) -> None:
    """Add a member's text, the texts of a list, or the members of an object: `offers.price`."""
    if isinstance(value, Mapping):
        for part, member in value.items():
            _flatten(record, name if part == "@value" else f"{name}.{part}", member)
    elif isinstance(value, list):
        for element in value:
            if isinstance(element, list) or (isinstance(element, dict) and "@value" not in element):
                record.setdefault(name, []).append(
                    UnknownValue("it is a list of objects; export a list of texts, or one listing for each")
                )
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


def _products(read: _Texts) -> Iterator[tuple[int, NamedCells] | Refusal]:
    """The products of JSON-LD with the vocabulary of schema.org."""
    number = 0
    for record in _objects(read):
        if isinstance(record, Refusal):
            number += 1
            yield Refusal(number, 0, record.detail)
            continue
        for product in _found_products(record[1]):
            number += 1
            yield number, _product(product)


def _found_products(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if depth > 8:
        return
    if isinstance(value, list):
        for element in value:
            yield from _found_products(element, depth + 1)
    elif isinstance(value, dict):
        kinds = value.get("@type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if any(
            str(kind).rpartition("/")[2].removeprefix("schema:") in ("Product", "IndividualProduct") for kind in kinds
        ):
            yield value
            return
        for name in ("@graph", "itemListElement", "item", "mainEntity", "hasVariant"):
            yield from _found_products(value.get(name), depth + 1)


def _product(product: Mapping[str, Any]) -> NamedCells:
    """A product with the names of columns: the names of its brand, the URLs of its pictures, its only offer."""
    record: dict[str, list[str]] = {}
    for name, value in product.items():
        if name in ("brand", "manufacturer"):
            _flatten(record, name, _parts(value, "name"))
        elif name == "image":
            _flatten(record, name, _parts(value, "url", "contentUrl"))
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


def _parts(value: Any, *names: str) -> Any:
    """The first of these members of an object, or of each object of a list; else the object itself."""
    if isinstance(value, list):
        return [_parts(one, *names) for one in value]
    return next((value[name] for name in names if name in value), value) if isinstance(value, dict) else value


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
