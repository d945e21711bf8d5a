"""Backward compatibility of OpenAPI documents: clients of an older document can use the newer service.

The checker compares structure only. It resolves references, so schemas may be renamed and moved; it ignores titles,
descriptions, examples and summaries. A request must stay as easy to write: everything that was valid is still valid.
A response must stay as easy to read: no field disappears, becomes optional or changes its type. New operations,
statuses, optional request fields, response fields and enumeration values in responses are compatible.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

Json = dict[str, Any]

METHODS: Final = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
_LOWER_BOUNDS: Final = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
_SIZES: Final = ("minLength", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")
_LIMITS: Final = (*_LOWER_BOUNDS, *_UPPER_BOUNDS, "pattern", "format")
"""Keywords that limit a value; beside `anyOf`, they limit the values of each alternative."""


def incompatibilities(before: Json, now: Json) -> list[str]:
    """The differences that break a client of `before`, one sentence each; empty when `now` is compatible."""
    return list(_Comparison(before, now).run())


class _Comparison:
    def __init__(self, before: Json, now: Json) -> None:
        self._before = before
        self._now = now
        self._open: set[tuple[int, int, bool]] = set()  # pairs of schemas under comparison: schemas may be recursive

    def run(self) -> Iterator[str]:
        for path, item in self._before["paths"].items():
            if path not in self._now["paths"]:
                yield f"path {path} was removed"
                continue
            for method in METHODS:
                if method not in item:
                    continue
                name = f"{method.upper()} {path}"
                if (new := self._now["paths"][path].get(method)) is None:
                    yield f"{name} was removed"
                else:
                    yield from self._operation(name, item[method], new)

    def _operation(self, name: str, old: Json, new: Json) -> Iterator[str]:
        if old.get("operationId") != new.get("operationId"):
            yield f"{name}: operationId was {old.get('operationId')} and is now {new.get('operationId')}"
        if _scopes(self._before, old) != _scopes(self._now, new):
            yield f"{name}: security was {_scopes(self._before, old)} and is now {_scopes(self._now, new)}"
        yield from self._parameters(name, old, new)
        yield from self._body(name, old, new)
        for status, response in old["responses"].items():
            if status not in new["responses"]:
                yield f"{name}: response {status} was removed"
            else:
                yield from self._response(f"{name}: response {status}", response, new["responses"][status])

    def _parameters(self, name: str, old: Json, new: Json) -> Iterator[str]:
        known, present = _parameters(old), _parameters(new)
        for key, parameter in known.items():
            place = f"{name}: {key[0]} parameter {parameter['name']}"
            if key not in present:
                yield f"{place} was removed"
                continue
            if present[key].get("required") and not parameter.get("required"):
                yield f"{place} is newly required"
            yield from self._accepts(place, parameter["schema"], present[key]["schema"])
        for key, parameter in present.items():
            if key not in known and parameter.get("required"):
                yield f"{name}: {key[0]} parameter {parameter['name']} was added and is required"

    def _body(self, name: str, old: Json, new: Json) -> Iterator[str]:
        known, present = old.get("requestBody", {}), new.get("requestBody", {})
        if present.get("required") and not known.get("required"):
            yield f"{name}: the request body is newly required"
        for kind, content in known.get("content", {}).items():
            if kind not in present.get("content", {}):
                yield f"{name}: request body {kind} was removed"
            else:
                yield from self._accepts(f"{name}: request", content["schema"], present["content"][kind]["schema"])

    def _response(self, place: str, old: Json, new: Json) -> Iterator[str]:
        headers = {header.lower() for header in new.get("headers", {})}
        for header in old.get("headers", {}):
            if header.lower() not in headers:
                yield f"{place}: header {header} was removed"
        for kind, content in old.get("content", {}).items():
            if kind not in new.get("content", {}):
                yield f"{place}: content type {kind} was removed"
            elif "schema" in content:
                schema = new["content"][kind].get("schema", {})
                yield from self._returns(f"{place}: {kind}", content["schema"], schema)

    def _accepts(self, place: str, old: Json, new: Json) -> Iterator[str]:
        """Request schemas: each alternative of the old schema must be valid under an alternative of the new one."""
        news = list(_alternatives(self._now, new))
        for alternative in _alternatives(self._before, old):
            yield from self._best(place, [(alternative, other) for other in news], accepts=True)

    def _returns(self, place: str, old: Json, new: Json) -> Iterator[str]:
        """Response schemas: each alternative of the new schema must be readable as an alternative of the old one."""
        olds = list(_alternatives(self._before, old))
        for alternative in _alternatives(self._now, new):
            yield from self._best(place, [(other, alternative) for other in olds], accepts=False)

    def _best(self, place: str, pairs: list[tuple[Json, Json]], *, accepts: bool) -> Iterator[str]:
        """The differences of the pair with the fewest differences; pairs of compatible types come first."""
        results = []
        for old, new in pairs:
            key = (id(old.get("properties", old)), id(new.get("properties", new)), accepts)
            if key in self._open:
                return
            self._open.add(key)
            compare = self._narrowed if accepts else self._reduced
            fits = _fits(old, new) if accepts else _fits(new, old)
            results.append((not fits, list(compare(place, old, new))))
            self._open.discard(key)
        yield from min(results, key=lambda result: (result[0], len(result[1])))[1]

    def _narrowed(self, place: str, old: Json, new: Json) -> Iterator[str]:
        if not _fits(old, new):
            yield f"{place} was {_type(old)} and is now {_type(new)}"
            return
        yield from _narrowed_values(place, old, new)
        fields, present = old.get("properties", {}), new.get("properties", {})
        for field, schema in fields.items():
            if field not in present:
                yield f"{place}/{field} was removed"
            else:
                yield from self._accepts(f"{place}/{field}", schema, present[field])
        for field in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield f"{place}/{field} is newly required"
        if "items" in new:
            yield from self._accepts(f"{place}/*", old.get("items", {}), new["items"])
        if "propertyNames" in new:
            yield from self._accepts(
                f"{place} (names)", old.get("propertyNames", {"type": "string"}), new["propertyNames"]
            )
        others, others_now = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if others is not False and others_now is False:
            yield f"{place} rejects unknown fields now"
        elif isinstance(others_now, dict) and others is not False:
            yield from self._accepts(f"{place}/*", others if isinstance(others, dict) else {}, others_now)

    def _reduced(self, place: str, old: Json, new: Json) -> Iterator[str]:
        if not _fits(new, old):
            yield f"{place} was {_type(old)} and is now {_type(new)}"
            return
        fields, present = old.get("properties", {}), new.get("properties", {})
        for field, schema in fields.items():
            if field not in present:
                yield f"{place}/{field} was removed"
            else:
                yield from self._returns(f"{place}/{field}", schema, present[field])
        for field in sorted((set(old.get("required", ())) - set(new.get("required", ()))) & present.keys()):
            yield f"{place}/{field} was always present and is now optional"
        if "items" in old:
            yield from self._returns(f"{place}/*", old["items"], new.get("items", {}))
        if isinstance(others := old.get("additionalProperties"), dict):
            others_now = new.get("additionalProperties", {})
            yield from self._returns(f"{place}/*", others, others_now if isinstance(others_now, dict) else {})


def _parameters(operation: Json) -> dict[tuple[str, str], Json]:
    def key(parameter: Json) -> tuple[str, str]:
        place, name = parameter["in"], parameter["name"]
        return place, name.lower() if place == "header" else name

    return {key(parameter): parameter for parameter in operation.get("parameters", [])}


def _scopes(document: Json, operation: Json) -> list[list[str]]:
    """The scopes of each security scheme that opens the operation; the schemes' own names do not matter."""
    schemes = operation["security"] if "security" in operation else document.get("security", [])
    return sorted(sorted(scopes) for scheme in schemes for scopes in scheme.values())


def _alternatives(document: Json, schema: Json) -> Iterator[Json]:
    """The alternatives of a schema, each of at most one type; a value must match one of them."""
    while "$ref" in schema:
        node: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    if parts := [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]:
        if len(schema.get("allOf", ())) > 1:
            raise ValueError("allOf of several schemas is not supported")
        limits: Json = {name: schema[name] for name in _LIMITS if name in schema}
        for part in parts:
            yield from _alternatives(document, {**limits, **part} if limits else part)
    elif isinstance(schema.get("type"), list):
        yield from ({"type": kind} if kind == "null" else {**schema, "type": kind} for kind in schema["type"])
    elif schema.get("const", 0) is None:
        yield {"type": "null"}
    elif None in schema.get("enum", ()):
        yield {"type": "null"}
        yield {**schema, "enum": [value for value in schema["enum"] if value is not None]}
    else:
        yield schema


def _type(schema: Json) -> str:
    if "type" in schema:
        return str(schema["type"])
    values = _values(schema)
    if values is not None:
        names = {str: "string", bool: "boolean", int: "integer", float: "number"}
        return names.get(type(values[0]), "any")
    return "object" if "properties" in schema else "any"


def _values(schema: Json) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _fits(schema: Json, other: Json) -> bool:
    """True if the type of `other` includes the type of `schema`."""
    mine, others = _type(schema), _type(other)
    return others in (mine, "any") or (mine, others) == ("integer", "number")


def _narrowed_values(place: str, old: Json, new: Json) -> Iterator[str]:
    values, values_now = _values(old), _values(new)
    if values_now is not None:
        if values is None:
            yield f"{place} was any {_type(old)} and is now one of {values_now}"
        elif missing := [value for value in values if value not in values_now]:
            yield f"{place} no longer accepts {missing}"
    for bound in (*_LOWER_BOUNDS, *_UPPER_BOUNDS):
        sign = 1 if bound in _LOWER_BOUNDS else -1
        unlimited = 0 if bound in _SIZES else -sign * math.inf
        if bound in new and values is None and sign * new[bound] > sign * old.get(bound, unlimited):
            yield f"{place}: {bound} was {old.get(bound, 'not limited')} and is now {new[bound]}"
    for keyword in ("pattern", "format"):
        if keyword in new and values is None and new[keyword] != old.get(keyword):
            yield f"{place}: {keyword} was {old.get(keyword)!r} and is now {new[keyword]!r}"
    if new.get("uniqueItems") and not old.get("uniqueItems"):
        yield f"{place}: items must be unique now"
    if "default" in old and "default" in new and old["default"] != new["default"]:
        yield f"{place}: the default was {old['default']!r} and is now {new['default']!r}"
