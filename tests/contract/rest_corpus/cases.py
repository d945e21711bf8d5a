"""Bad requests to every operation, generated from the committed OpenAPI documents of version 1 and a fixed seed.

The cases are the same on each machine and in each run. Text such as `@eu@` stands for a value of the system under test
(see `fill`): the name of a region, a key, the id of an item that exists.
"""

import copy
import gzip
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from tests.conftest import project_root

Json = dict[str, Any]

LINES: Final = "application/x-ndjson"
SEED: Final = 22_691
PROBES: Final[Mapping[str, str]] = {
    "intake": "/v1/totals",
    "router": "/v1/control",
    "decision": "/v1/queues",
    "audit": "/v1/totals",
}
"""The recorded services, each with a path that shows whether the service accepts a key."""

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
NOWHERE: Final = "00000000-0000-4000-8000-000000000000"
_NUMBER: Final = b"<number>"
_WITH_BODY: Final = 60  # cases generated from the schema, for an operation with a body
_MIXED: Final = 12  # cases with several faults at once
_LINES: Final = 8  # in one body of an operation that takes lines

TARGETS: Final[Mapping[str, str]] = {
    "name": "@client@",
    "key_id": "0123456789ab",
    "request_id": "@request:{operation}@",
    "item_id": "@item:{operation}@",
    "notice_id": "@notice@",
    "appeal_id": "@appeal@",
    "case_id": "@case@",
    "queue": "counterfeit",
    "event_id": "@event@",
    "platform": "corpus",
    "kind": "product",
    "id": "decided",
}
"""The values of path parameters: objects that exist, and that no other operation changes."""

REPLACED: Final[Mapping[str, Json]] = {
    "createClient": {"name": "@made@"},
    "createKey": {"expires_at": "@future@", "others_expire_at": None},
    "postItem": {"platform": "corpus", "id": "bad"},
    "postItems": {"platform": "corpus", "id": "bad"},
    "postNotice": {"platform": "corpus", "id": "bad"},
    "claim": {"queues": ["counterfeit"]},
    "decide": {"lease_token": 1},
}
"""Members of the documented examples that cannot be sent as they are."""

BASE_KEY: Final[Mapping[str, str]] = {
    "approveRequest": "lead",
    "rejectRequest": "lead",
    "reviewRequest": "lead",
    "deployRequest": "lead",
    "rollbackRequest": "lead",
}
"""Operations that the author of a request may not call."""


class Case(NamedTuple):
    """One request. `operation` is the service and the id of the operation, or the service and `paths`.

    `key` names the client whose API key is sent, or is empty; `target` is the raw request target.
    """

    operation: str
    label: str
    method: str
    target: bytes
    key: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None
    length: int | None = None  # a Content-Length other than the body's
    chunked: bool = False


class Operation(NamedTuple):
    """An operation of a document, with a request that is valid."""

    service: str
    name: str
    method: str
    template: str
    details: Json
    document: Json

    @property
    def kind(self) -> str:
        return next(iter(self.details.get("requestBody", {}).get("content", {})), "")

    @property
    def scope(self) -> str:
        return str(next(iter(self.details.get("security", [{}])[0].values()), [""])[0]) if self.secured else ""

    @property
    def secured(self) -> bool:
        return bool(self.details.get("security"))

    def parameters(self, place: str) -> list[Json]:
        return [parameter for parameter in self.details.get("parameters", []) if parameter["in"] == place]

    def path(self, **values: str) -> bytes:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            return values[name] if name in values else TARGETS[name].format(operation=self.name)

        return re.sub(r"{(\w+)(?::\w+)?}", value, self.template).encode("latin-1")

    def schema(self) -> Json:
        content: Json = self.details["requestBody"]["content"][self.kind]
        return resolve(self.document, content["schema"])

    def example(self) -> Any:
        """The documented body, with the values of the system under test."""
        content = self.details["requestBody"]["content"][self.kind]
        found = content["example"] if "example" in content else self.schema()["examples"][0]
        if self.kind == LINES:
            found = json.loads(found)
        found = localized(found)
        changed = {name: value for name, value in REPLACED.get(self.name, {}).items() if value is not None}
        removed = {name for name, value in REPLACED.get(self.name, {}).items() if value is None} | {"revision"}
        return {name: value for name, value in (found | changed).items() if name not in removed}

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of a valid request, without the key."""
        found = [(b"Content-Type", self.kind.encode())] if self.kind else []
        for parameter in self.parameters("header"):
            name = parameter["name"].lower()
            if name == "idempotency-key":
                found.append((b"Idempotency-Key", b'"' + _NUMBER + b'"'))
            if name == "if-match" and parameter.get("required"):
                found.append((b"If-Match", b"@etag@"))
        return found


def localized(value: Any) -> Any:
    """The value with the region names of the documents replaced by those of the system under test."""
    if isinstance(value, dict):
        return {name: localized(member) for name, member in value.items()}
    if isinstance(value, list):
        return [localized(member) for member in value]
    return f"@{value}@" if value in ("eu", "us") else value


def fill(text: bytes, values: Mapping[str, str]) -> bytes:
    """The text with each `@name@` replaced by its value."""
    return re.sub(rb"@([a-z]+(?::\w+)?)@", lambda match: values[match[1].decode()].encode(), text)


def operations(service: str) -> list[Operation]:
    """The operations of a service, in the order of its document."""
    path = project_root() / "docs" / "contracts" / "rest-v1" / f"{service}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    return [
        Operation(service, details["operationId"], method.upper(), path, details, document)
        for path, item in document["paths"].items()
        for method, details in item.items()
    ]


def generate() -> Iterator[Case]:
    """All cases, grouped by operation."""
    for service in PROBES:
        yield from _paths(service)
        for operation in operations(service):
            for number, case in enumerate(_cases(operation)):
                headers = tuple((name, value.replace(_NUMBER, b"%d" % number)) for name, value in case.headers)
                yield case._replace(headers=headers)


def _cases(operation: Operation) -> Iterator[Case]:
    rng = random.Random(f"{SEED}:{operation.service}:{operation.name}")
    name = f"{operation.service} {operation.name}"
    base = Case(name, "valid", operation.method, operation.path(), "", tuple(operation.headers()))
    if operation.secured:
        base = base._replace(key=BASE_KEY.get(operation.name, "all"))
    if operation.kind:
        base = base._replace(body=text_of(operation.example()))
        if operation.kind == LINES:
            base = base._replace(body=text_of(operation.example()) + b"\n")
    yield base
    if operation.secured:
        yield from _some(rng, 18, _keys(operation, base))
    for parameter in operation.parameters("path"):
        yield from _some(rng, 9, _path_parameter(operation, base, parameter["name"]))
    yield from _some(rng, 6, _unknown_queries(base))
    for parameter in operation.parameters("query"):
        yield from _some(rng, 14, _query(base, parameter))
    yield from _some(rng, 20, _headers(operation, base))
    if operation.kind:
        yield from _some(rng, 16, _content(base))
        yield from _some(rng, 30, _texts(base))
        yield from _bodies(operation, base, rng)


def _some(rng: random.Random, count: int, found: Iterable[Case]) -> list[Case]:
    """A random sample of at most `count` cases, in their order."""
    cases = list(found)
    chosen = sorted(rng.sample(range(len(cases)), min(count, len(cases))))
    return [cases[index] for index in chosen]


def text_of(value: Any) -> bytes:
    """A JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _paths(service: str) -> Iterator[Case]:
    """Unknown paths, and unknown methods of known ones."""
    name = f"{service} paths"
    unknown = (
        "/",
        "/v1",
        "/v1/",
        "/v2/items",
        "/nothing",
        "//",
        "/v1//",
        "/%2e%2e/v1",
        "/v1/%00",
        "/v1/%ff",
        "/V1/TOTALS",
    )
    for path in (*unknown, "/docs", "/redoc", "/openapi.json", "/openapi.yaml", "/favicon.ico", "*"):
        for method in ("GET", "POST") if path != "*" else ("OPTIONS",):
            yield Case(name, f"{method} {path}", method, path.encode(), "all")
    yield Case(name, "no key, unknown path", "GET", b"/v1/nothing")
    for raw in (b"/v1/\xc3\xa4", b"/v1/\xff", b"v1", b"http://elsewhere.example/v1/totals", b"/v1/totals#part"):
        yield Case(name, f"target {raw!r}", "GET", raw, "all")
    by_path: dict[str, list[Operation]] = {}
    for operation in operations(service):
        by_path.setdefault(operation.template, []).append(operation)
    for template, known in by_path.items():
        target = known[0].path()
        for method in METHODS:
            if method not in {operation.method for operation in known}:
                yield Case(name, f"{method} {template}", method, target, "all")
        yield Case(name, f"method without a key: {template}", "PUT", target)
        for suffix in (b"/", b"/x", b"//", b"%20"):
            if not template.endswith((":path}", "{id}")):
                yield Case(name, f"{template}{suffix.decode()}", known[0].method, target + suffix, "all")


def _keys(operation: Operation, base: Case) -> Iterator[Case]:
    def sent(label: str, *values: bytes) -> Case:
        headers = tuple((b"Authorization", value) for value in values)
        return base._replace(label=label, key="", headers=base.headers + headers)

    yield base._replace(label="no key", key="")
    for value in (b"", b"Bearer", b"Bearer ", b"Basic YTpi", b"bearer @key:all@", b"Bearer  @key:all@", b"@key:all@"):
        yield sent(f"Authorization {value!r}", value)
    yield sent("mistyped key", b"Bearer @key:mistyped@")
    yield sent("unknown key", b"Bearer @key:unknown@")
    yield sent("no token", b"Bearer a.b.c")
    yield sent("not ASCII", b"Bearer pp_\xc3\xa4")
    yield sent("two keys", b"Bearer @key:all@", b"Bearer @key:unknown@")
    yield sent("an unknown key before a known one", b"Bearer @key:unknown@", b"Bearer @key:all@")
    scopeless = "auditor" if operation.scope != "audit:read" else "reader"
    for key in ("revoked", "disabled", scopeless, "elsewhere", "platform", "limited"):
        yield base._replace(label=f"key {key}", key=key)
    if operation.kind:
        for key in ("", scopeless, "limited"):
            malformed = base._replace(key=key, body=b"{")
            yield malformed._replace(label=f"key {key!r}, malformed body")
            yield malformed._replace(
                label=f"key {key!r}, body of another kind", headers=((b"Content-Type", b"text/plain"),)
            )
    yield base._replace(label="no scope, unknown parameter", key=scopeless, target=base.target + b"?x=1")


def _path_parameter(operation: Operation, base: Case, name: str) -> Iterator[Case]:
    values = (
        *("x", "%20", "%2f", "a%2fb", "%00", "%ff", "%C3%A4", "..", "%2e%2e", ".", "0", "-1", "null", "A" * 300, "%0a"),
        *(
            NOWHERE,
            NOWHERE.replace("-", ""),
            "{" + NOWHERE + "}",
            NOWHERE + "0",
            "0A5FDBB3-6A3D-5F6E-8F9E-3B1C61F0A0DE",
        ),
        *("urn:uuid:" + NOWHERE, "a+b", "a:b", "a;b=c", "@eu@", "general", "x" * 5000, "%", "%zz", "\xe4"),
    )
    for value in values:
        yield base._replace(label=f"{name}={value[:40]!r}", target=operation.path(**{name: value}))
    yield base._replace(label=f"{name} is empty", target=operation.path(**{name: ""}))


def _asked(base: Case, query: bytes) -> Case:
    return base._replace(label=f"?{query[:60]!r}", target=base.target + b"?" + query)


def _unknown_queries(base: Case) -> Iterator[Case]:
    for query in (
        *(b"x=1", b"x", b"=", b"&&", b"", b"x=1&x=2&y=3", b"x=%ff", b"%ff=1", b"x=\xc3\xa4", b"a/b~c=1", b"Limit=1"),
        *(b"&".join(b"p%d=1" % n for n in range(30)), b"x=" + b"a" * 9000),
    ):
        yield _asked(base, query)


def _query(base: Case, parameter: Json) -> Iterator[Case]:
    name, example = parameter["name"], parameter.get("example", parameter["schema"].get("default"))
    for value in (
        *(
            "",
            "0",
            "-1",
            "1",
            "many",
            "1.0",
            "1e1",
            "+1",
            " 1",
            "01",
            "1_0",
            "true",
            "null",
            "9" * 20,
            "9" * 400,
            "201",
        ),
        *(
            "\n",
            "\x00",
            "~",
            "AAAA",
            "e30",
            "bnVsbA==",
            "MQ==",
            "a" * 64,
            "a" * 600,
            "draft",
            "PRODUCT",
            "active",
            "1001",
        ),
        *(
            "@eu@",
            "mars",
            "2026-05-01",
            "2026-05-01T00:00:00",
            "2026-13-01T00:00:00Z",
            "ä",
            "<script>",
            "a,b",
            "waiting",
        ),
    ):
        yield _asked(base, f"{name}={quote(value, safe='@')}".encode())
    if example is not None:
        valid = f"{name}={quote(str(example))}".encode()
        yield _asked(base, valid)
        yield _asked(base, valid + b"&" + valid)
    yield _asked(base, f"{name}=1&{name}=2&x=3".encode())
    yield _asked(base, f"{name}=%ff".encode())
    yield _asked(base, f"{name}=%ED%A0%80".encode())
    yield _asked(base, f"{name}=".encode() + b"\xe4")


def _headers(operation: Operation, base: Case) -> Iterator[Case]:
    wrong: dict[str, tuple[bytes, ...]] = {
        "idempotency-key": (
            *(
                b"",
                b"a",
                b'"',
                b'""',
                b'"a',
                b'"' + b"a" * 255 + b'"',
                b'"' + b"a" * 256 + b'"',
                b'"\xc3\xa4"',
                b'"\\"',
            ),
            *(b'"a b"', b'"a"; x=1', b'"a", "b"', b"'a'", b'"a\tb"', b' "a" '),
        ),
        "if-match": (b"", b"*", b'"', b'""', b'W/"1"', b'"x"', b"1", b'"0"', b'"1", "2"', b'"999"', b'"-1"', b'"1" x'),
        "prefer": (
            b"",
            b"wait",
            b"wait=0",
            b"wait=x",
            b"wait=-1",
            b"wait=0.5",
            b"respond-async",
            b"wait=",
            b'wait="0"',
        ),
    }
    for parameter in operation.parameters("header"):
        name = parameter["name"].lower()
        others = tuple((field, value) for field, value in base.headers if field.decode().lower() != name)
        yield base._replace(label=f"without {name}", headers=others)
        for value in wrong[name]:
            yield base._replace(label=f"{name}: {value[:40]!r}", headers=(*others, (name.encode(), value)))
        twice = ((name.encode(), b'"1"'), (name.encode(), b'"2"'))
        yield base._replace(
            label=f"{name} twice", headers=others + (twice if name != "prefer" else ((b"prefer", b"a"),) * 2)
        )
    for field, value in (
        (b"Accept", b"text/html"),
        (b"Accept", b"application/xml;q=0"),
        (b"X-HTTP-Method-Override", b"PUT"),
    ):
        yield base._replace(label=f"{field.decode()}: {value.decode()}", headers=(*base.headers, (field, value)))
    if not operation.kind:
        for body in (b"{}", b"{", b"x" * 100):
            yield base._replace(label=f"a body that is not asked for: {body[:5]!r}", body=body)


def _content(base: Case) -> Iterator[Case]:
    """Content types, encodings and sizes."""
    valid = base.body or b""
    others = tuple(header for header in base.headers if header[0] != b"Content-Type")
    for kind in (
        *(
            "",
            "text/plain",
            "application/json",
            "application/JSON",
            "application/json; charset=utf-8",
            "application/x-ndjson",
        ),
        *("application/json;charset=utf-16", "application/problem+json", "application/x-www-form-urlencoded"),
        *("multipart/form-data; boundary=x", "application/json, text/plain", "json", "*/*", "application/json;"),
    ):
        yield base._replace(label=f"Content-Type {kind!r}", headers=(*others, (b"Content-Type", kind.encode())))
    yield base._replace(label="no Content-Type", headers=others)
    yield base._replace(label="no Content-Type, no body", headers=others, body=None)
    yield base._replace(label="two Content-Types", headers=(*base.headers, (b"Content-Type", b"text/plain")))
    packed = gzip.compress(valid, mtime=0)
    for coding, body in (
        *(
            ("br", valid),
            ("identity", valid),
            ("", valid),
            ("deflate", valid),
            ("gzip", valid),
            ("zstd", valid),
            ("x", valid),
        ),
        *(("gzip", packed), ("GZIP", packed), ("gzip", packed[:-9]), ("gzip", packed + b"x"), ("gzip, gzip", packed)),
    ):
        label = f"Content-Encoding {coding!r}, {'packed' if body is not valid else 'plain'} {len(body) - len(packed)}"
        yield base._replace(label=label, headers=(*base.headers, (b"Content-Encoding", coding.encode())), body=body)
    yield base._replace(label="chunked", chunked=True)
    yield base._replace(label="chunked, empty", chunked=True, body=b"")
    yield base._replace(label="announced too large", body=b"", length=2**40)
    yield base._replace(label="300 KiB", body=b'{"x":"' + b"a" * 300 * 1024 + b'"}')
    yield base._replace(label="1.1 MiB, mostly white space", body=b" " * 1_150_000 + valid)
    yield base._replace(label="2.1 MiB", body=b'{"x":"' + b"a" * 2_200_000 + b'"}')


_NOT_JSON: Final = (
    *(
        b"",
        b" ",
        b"{",
        b"}",
        b"[",
        b'"',
        b"x",
        b"{}x",
        b"{}{}",
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":01}',
        b'{"a":1.}',
    ),
    *(
        b'{"a":.5}',
        b'{"a":+1}',
        b'{"a":0x1}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b"NaN",
        b'{"a":nan}',
    ),
    *(b'{"a":"\xff"}', b'{"\xff":1}', b"\xff", b'{"a":"\xed\xa0\x80"}', b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud800"}'),
    *(
        b'{"\\ud800":1}',
        b'{"a":"\x01"}',
        b'{"a":"\\x"}',
        b'{"a":"\\u12"}',
        b'{"a":"\n"}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
    ),
    *(
        b"{\x00}\x00",
        b"/* a */{}",
        b'{"a":1//b\n}',
        b'{"a":tru}',
        b"\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":1e}',
    ),
)
_JSON: Final = (
    *(
        b"{}",
        b"[]",
        b"null",
        b"true",
        b"1",
        b"1e999",
        b'"x"',
        b"[{}]",
        b'{"":1}',
        b'{"x":null}',
        b'{"x":1,"x":1}',
        b'{"a":1e999}',
    ),
    *(
        b'{"a":-1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[{"b":1,"b":1}],"a":1}',
        b'{"a":1,"\\u0061":2}',
    ),
    *(
        b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 60 + b"1" + b"}" * 60,
        b'{"a/b~c":1}',
    ),
    *(
        b'{"a":-0}',
        b'{"a":1.0}',
        b'{"a":1E400}',
        b'{"a":1e-999}',
        b'{"a":"\\ud83d\\ude00"}',
        b'{"__proto__":1}',
        b"\t{}\r\n ",
    ),
    *(
        b"{" + b",".join(b'"p%d":1' % n for n in range(30)) + b"}",
        b"{" + b",".join(b'"p":%d' % n for n in range(30)) + b"}",
    ),
)


def _texts(base: Case) -> Iterator[Case]:
    """Bodies that are not JSON, or JSON of another shape."""
    for n, body in enumerate((*_NOT_JSON, *_JSON)):
        yield base._replace(label=f"body {n}: {body[:50]!r}", body=body)
    valid = base.body or b""
    for label, body in (
        *(("byte order mark", b"\xef\xbb\xbf" + valid), ("trailing text", valid + b" x"), ("twice", valid + valid)),
        *(("UTF-16", valid.decode().encode("utf-16")), ("Latin-1", valid.decode().encode("latin-1", "replace"))),
        *(
            ("cut off", valid[:-3]),
            ("an array of it", b"[" + valid.strip() + b"]"),
            ("a NUL behind it", valid + b"\x00"),
        ),
    ):
        yield base._replace(label=label, body=body)


def _bodies(operation: Operation, base: Case, rng: random.Random) -> Iterator[Case]:
    """Bodies with wrong values."""
    bodies = list(_mutations(operation, operation.example(), rng))
    if operation.kind == LINES:
        groups = [bodies[start : start + _LINES] for start in range(0, len(bodies), _LINES)]
        bodies = [
            (f"lines {n}: {'; '.join(label for label, _ in group)}", b"\n".join(body for _, body in group))
            for n, group in enumerate(groups)
        ]
    for label, body in bodies:
        yield base._replace(label=label, body=body)


Mutation = tuple[str, Callable[[Json], None]]


def _mutations(operation: Operation, example: Json, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Bodies with one wrong value in each, and some with several."""
    schema, document = operation.schema(), operation.document
    if operation.kind == LINES:
        posted = next(other for other in operations(operation.service) if other.name == "postItem")
        schema, example = posted.schema(), posted.example()
    faults = list(_faults(document, schema, example, ()))
    count = 3 * _WITH_BODY if len(faults) > 900 else _WITH_BODY
    chosen = rng.sample(faults, min(len(faults), count))
    for label, apply in chosen:
        body = copy.deepcopy(example)
        apply(body)
        yield label, text_of(body)
    for n in range(_MIXED):
        body, labels = copy.deepcopy(example), []
        for label, apply in rng.sample(faults, min(len(faults), rng.randint(2, 5))):
            try:
                apply(body)
            except (KeyError, IndexError, TypeError, AttributeError):
                continue  # an earlier fault took the place away
            labels.append(label)
        yield f"mixed {n}: {', '.join(labels)}", text_of(body)
    fields = list(example)
    for n in range(6):
        members = [text_of(name) + b":" + text_of(example[name]) for name in fields]
        members.insert(rng.randrange(len(members) + 1), rng.choice(members))
        yield f"duplicate member {n}", b"{" + b",".join(members) + b"}"
    valid = text_of(example)
    for _ in range(8):
        position = rng.randrange(len(valid))
        yield f"byte {position} replaced", valid[:position] + bytes([rng.randrange(256)]) + valid[position + 1 :]
    for number in (b"NaN", b"Infinity", b"1e999", b"-1e999", b"1.0", b"1e2", b"9" * 400):
        name = rng.choice(fields)
        yield f"{name} is {number[:9].decode()}", re.sub(rb'"@@"', number, text_of({**example, name: "@@"}), count=1)


def resolve(document: Json, schema: Json) -> Json:
    """A schema with its top-level reference resolved."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _shapes(document: Json, schema: Json) -> list[Json]:
    schema = resolve(document, schema)
    if parts := [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]:
        return [shape for part in parts for shape in _shapes(document, part)]
    return [schema]


def _faults(document: Json, schema: Json, value: Any, place: tuple[str | int, ...]) -> Iterator[Mutation]:
    """The changes of a value, or of a value inside it, that may make it invalid."""
    shapes = _shapes(document, schema)
    if place:
        for wrong in _values(shapes, value):
            yield f"{_name(place)} = {json.dumps(wrong)[:50]}", _setter(place, wrong)
    for shape in shapes:
        for field, part in shape.get("properties", {}).items():
            inner = (*place, field)
            there = isinstance(value, dict) and field in value
            if there:
                yield f"{_name(inner)} is missing", _remover(inner)
            yield from _faults(document, part, value[field] if there else None, inner)
        if isinstance(value, dict) and shape.get("properties"):
            yield f"{_name(place)} has an unknown member", _setter((*place, "no_such_field"), 1)
            yield f"{_name(place)} has an unknown member a/b~", _setter((*place, "a/b~"), {})
        if isinstance(value, list) and value and "items" in shape:
            yield from _faults(document, shape["items"], value[0], (*place, 0))
            yield f"{_name(place)} has its first item twice", _setter(place, [*value, value[0]])
        if isinstance(value, dict) and isinstance(others := shape.get("additionalProperties"), dict):
            for name in value:
                yield from _faults(document, others, value[name], (*place, name))
            for name in ("", "A B", "x" * 300, "\n", "ä"):
                yield (
                    f"{_name(place)} has a member {name[:9]!r}",
                    _setter((*place, name), next(iter(value.values()), 1)),
                )


def _values(shapes: list[Json], value: Any) -> Iterator[Any]:
    yield from (
        None,
        True,
        0,
        -1,
        1.5,
        "",
        " ",
        "x",
        [],
        {},
        [None],
        ["x", "x"],
        "1",
        1e300,
        2**63,
        -(2**63) - 1,
        2**70,
    )
    yield from ("a\nb", "\x00", "\ud800", "\u2028", "a" * 101, "a" * 10_001, "\U0001f600", "ä" * 300, "-", "A", "mars")
    if isinstance(value, str):
        yield from (value.upper(), value + " ", value[:1], [value], {"x": value}, value * 40)
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from (str(value), float(value) + 0.5, -value, value * 10**9)
    if isinstance(value, bool):
        yield from (not value, str(value).lower(), int(value))
    for shape in shapes:
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound in shape:
                yield shape[bound] + step
        if "maxLength" in shape:
            yield from ("a" * shape["maxLength"], "a" * (shape["maxLength"] + 1))
        if "maxItems" in shape and isinstance(value, list) and value:
            yield value[:1] * (shape["maxItems"] + 1)


def _name(place: tuple[str | int, ...]) -> str:
    return "".join(f"/{part}" for part in place)


def _setter(place: tuple[str | int, ...], value: Any) -> Callable[[Json], None]:
    def apply(body: Json) -> None:
        node: Any = body
        for part in place[:-1]:
            if isinstance(node, dict) and part not in node:
                node[part] = {}
            node = node[part]
        node[place[-1]] = value

    return apply


def _remover(place: tuple[str | int, ...]) -> Callable[[Json], None]:
    def apply(body: Json) -> None:
        node: Any = body
        for part in place[:-1]:
            node = node[part]
        del node[place[-1]]

    return apply
