"""Every route of every service behaves as its OpenAPI document says: each response has an example, and each wrong call
gets a documented response. Kafka and PostgreSQL are absent; the tests run with and without rules in force."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from shared.contracts import ids
from tests.contract.rest_services import ALL, ELSEWHERE, METHODS, NOBODY, OFTEN, SERVICES, Operation, Served, serving

PROBES = {"/healthz", "/readyz", "/metrics"}
PROBLEM = "application/problem+json"
LARGE = str(2**40)
FORMAT_CHECKER = Draft202012Validator.FORMAT_CHECKER


@pytest.fixture(params=[(name, in_force) for name in SERVICES for in_force in (False, True)], scope="module", ids=str)
async def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    name, in_force = request.param
    async with serving(name, tmp_path_factory.mktemp(name), in_force=in_force) as service:
        yield service


def examples_of(content: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """The examples of a response, otherwise the examples of its schema."""
    if "example" in content:
        return [content["example"]]
    if "examples" in content:
        return [example["value"] for example in content["examples"].values()]
    reference = content["schema"].get("$ref", "").rpartition("/")[2]
    return list(document["components"]["schemas"].get(reference, {}).get("examples", ()))


def test_every_response_is_described_with_an_example(served: Served) -> None:
    faults = []
    assert set(served.document["paths"]) > PROBES
    for operation in served.operations():
        for status, answer in operation.documented["responses"].items():
            for kind, content in answer.get("content", {}).items():
                found = examples_of(content, served.document)
                if not found:
                    faults.append(f"{operation} {status}: no example")
                faults += [
                    f"{operation} {status}: {example}"
                    for example in found
                    if kind == PROBLEM
                    and (
                        example["status"] != int(status)
                        or not example["type"].startswith("urn:piepowder:problem:")
                        or not example["title"]
                        or not example["detail"]
                    )
                ]
            if int(status) >= 400 and status != "503" and PROBLEM not in answer.get("content", {}):
                faults.append(f"{operation} {status}: no problem")
        if (kind := operation.body_type) is not None:
            content = operation.documented["requestBody"]["content"][kind]
            schema = content["schema"]
            if "$ref" in schema:
                schema = served.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            if "example" not in content and not schema.get("examples"):
                faults.append(f"{operation}: no example of a body")
        if not operation.documented.get("summary") or not operation.documented["responses"]:
            faults.append(f"{operation}: no summary or no responses")
    assert not faults, "\n".join(faults)


def test_body_and_response_examples_match_their_schemas(served: Served) -> None:
    components = served.document["components"]
    faults = []
    for operation in served.operations():
        parts = {"body": operation.documented.get("requestBody", {}), **operation.documented["responses"]}
        for part, said in parts.items():
            for kind, content in said.get("content", {}).items():
                if kind in ("application/json", PROBLEM):
                    fits = Draft202012Validator({**content["schema"], "components": components})
                    found = fits.iter_errors(content["example"]) if "example" in content else ()
                    faults += [f"{operation} {part}: {fault.json_path}: {fault.message}" for fault in found]
    assert not faults, "\n".join(faults)


def examples(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any], object]]:
    """Each example in a document, as (place, own schema, example)."""
    if isinstance(node, list):
        for index, part in enumerate(node):
            yield from examples(part, f"{place}/{index}")
    elif isinstance(node, dict):
        if isinstance(schema := node.get("schema"), dict):  # a parameter, a header, a body
            if "example" in node:
                yield f"{place}/example", schema, node["example"]
            for name, example in node.get("examples", {}).items():
                yield f"{place}/examples/{name}", schema, example["value"]
        elif isinstance(node.get("examples"), list):  # a schema
            yield from ((f"{place}/examples/{n}", node, example) for n, example in enumerate(node["examples"]))
        for name, part in node.items():
            if name not in {"example", "examples"}:
                yield from examples(part, f"{place}/{name.replace('/', '~1')}")


def test_every_example_matches_its_own_schema_and_format(served: Served) -> None:
    found = list(examples(served.document))
    assert len(found) > 10
    components = served.document["components"]
    faults = [
        f"{place}: {fault.json_path}: {fault.message[:300]}"
        for place, schema, example in found
        for fault in Draft202012Validator(
            schema | {"components": components}, format_checker=FORMAT_CHECKER
        ).iter_errors(example)
    ]
    assert not faults, "\n".join(faults)


def wrong_calls(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Wrong calls, as (defect, arguments of the request)."""
    key = {"Authorization": f"Bearer {ALL}"}
    kind, body = operation.body_type, b"{}"
    typed = key if kind is None else key | {"Content-Type": kind}
    own = {"content": body} if kind else {}
    yield "no key", {"headers": {name: value for name, value in typed.items() if name != "Authorization"}, **own}
    yield "a mistyped key", {"headers": typed | {"Authorization": "Bearer pp_x"}, **own}
    yield "an unknown key", {"headers": typed | {"Authorization": f"Bearer {ids.new_api_key('other')}"}, **own}
    yield "no scope", {"headers": typed | {"Authorization": f"Bearer {NOBODY}"}, **own}
    yield "no region", {"headers": typed | {"Authorization": f"Bearer {ELSEWHERE}"}, **own}
    yield "nothing", {"headers": typed, **own}
    yield "the first of many", {"headers": typed | {"Authorization": f"Bearer {OFTEN}"}, **own}
    yield "too often", {"headers": typed | {"Authorization": f"Bearer {OFTEN}"}, **own}
    for name, value in (
        ("limit", "0"),
        ("limit", "many"),
        ("cursor", "~"),
        ("after", "-1"),
        ("reason", "\n"),
        ("x", "y"),
    ):
        yield f"{name}={value!r}", {"headers": typed, "params": {name: value}, **own}
    if kind is None:
        return
    for what, content in (
        ("no body", b""),
        ("no JSON", b"{"),
        ("no UTF-8", b'{"a": "\xff"}'),
        ("nested", b"[" * 100_000),
        ("another shape", b"[]"),
        ("other fields", b'{"no_such_field": 1}'),
        ("null", b"null"),
    ):
        yield what, {"headers": typed, "content": content}
    yield "text", {"headers": key | {"Content-Type": "text/plain"}, "content": body}
    yield "no type", {"headers": key, "content": body}
    yield "coded", {"headers": typed | {"Content-Encoding": "br"}, "content": body}
    yield "announced too large", {"headers": typed | {"Content-Length": LARGE}, "content": body}
    yield "too large", {"headers": typed, "content": pieces(40 * 2**20)}


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 2**20):
        yield b" " * 2**20


async def test_a_wrong_call_gets_a_documented_response(served: Served) -> None:
    faults, met = [], set()
    for operation in served.operations():
        if operation.path in PROBES:
            continue
        for what, call in wrong_calls(operation):
            answer = await served.calls.request(operation.method, operation.path, **call)
            met.add(answer.status_code)
            expected = {"no key": 401, "no scope": 403, "no region": 403, "too often": 429, "text": 415}
            documented = str(answer.status_code) in operation.documented["responses"]
            if not documented or answer.status_code not in (expected.get(what, answer.status_code), 503):
                faults.append(f"{operation}, {what}: {answer.status_code} {answer.text[:200]}")
            elif answer.status_code >= 400:
                problem = answer.json()
                if answer.headers["content-type"] != PROBLEM or problem["status"] != answer.status_code:
                    faults.append(f"{operation}, {what}: {answer.headers} {answer.text[:200]}")
                if answer.status_code == 503 and "retry-after" not in answer.headers:
                    faults.append(f"{operation}, {what}: no Retry-After")
    assert not faults, "\n".join(faults)
    assert met >= {401, 403, 429}


@pytest.mark.parametrize(
    ("body", "status", "pointer"), [(b'{"a": {"b": 1, "b": 1}}', 422, "/a/b"), (b'{"a": ', 400, ""), (b"\xff", 400, "")]
)
async def test_ambiguous_and_malformed_json_is_rejected_alike_by_every_route(
    served: Served, body: bytes, status: int, pointer: str
) -> None:
    faults = []
    headers = {"Authorization": f"Bearer {ALL}", "Content-Type": "application/json"}
    for operation in served.operations():
        if operation.body_type == "application/json":
            answer = await served.calls.request(operation.method, operation.path, headers=headers, content=body)
            pointers = [error["pointer"] for error in answer.json().get("errors", [])]
            if answer.status_code != 503 and (answer.status_code != status or pointer not in pointers):
                faults.append(f"{operation}: {answer.status_code} {answer.text[:300]}")
    assert not faults, "\n".join(faults)


async def test_another_method_gets_405_with_the_allowed_methods(served: Served) -> None:
    faults = []
    for operation in served.operations():
        for method in {method.upper() for method in METHODS} - operation.allowed:
            answer = await served.calls.request(method, operation.path, headers={"Authorization": f"Bearer {ALL}"})
            allow = {name.strip() for name in answer.headers.get("allow", "").split(",")} - {"HEAD"}
            if answer.status_code != 405 or allow != operation.allowed:
                faults.append(f"{method} {operation.path}: {answer.status_code} {allow} {answer.text[:200]}")
    assert not faults, "\n".join(faults)


async def test_probes_need_no_key_and_respond_as_described(served: Served) -> None:
    for path in PROBES:
        answer = await served.calls.get(path)
        said = served.document["paths"][path]["get"]["responses"][str(answer.status_code)]
        [(kind, content)] = said["content"].items()
        assert answer.headers["content-type"].startswith(kind)
        if kind == "application/json":
            assert answer.json().keys() == content["example"].keys()
            assert answer.json()["service"] == served.name
        else:
            assert content["example"].splitlines()[1].partition(" ")[0] in answer.text


async def test_a_service_exports_no_metric_without_a_sample(served: Served) -> None:
    text = (await served.calls.get("/metrics")).text
    described = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    sampled = set(re.findall(r"^([a-z_]+)", text, re.MULTILINE))
    assert {name for name in described if not any(sample.startswith(name) for sample in sampled)} == set()
