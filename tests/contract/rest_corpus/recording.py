"""The recorded responses, and the comparison with them.

`tests/contract/rest_corpus/recorded.json` has for each operation: the digest of its requests, how often each status and
problem type occurs, each distinct response under its digest, and the digest of the response to each request in order.

`accepted.json` has the intended differences since then: by operation and number of the request, the digest of the
present response and the key of the reason.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.contract.rest_corpus.calls import Response
from tests.contract.rest_corpus.cases import Case

RECORDED: Final = Path(__file__).parent / "recorded.json"
ACCEPTED: Final = Path(__file__).parent / "accepted.json"
COMMAND: Final = "python -m tests.contract.rest_corpus --record"
_PROBLEM: Final = "urn:piepowder:problem:"
_IN_DETAIL: Final = 5
_PER_LINE: Final = 12
_UNSTABLE: Final = frozenset({"date", "server", "content-length", "transfer-encoding"})
# parts that depend on the run: what else happened in the system, and the address of Kafka
_OPAQUE: Final = {
    "events": "/events/*",
    "listClients": "/clients/*",
    "readyz": "/conditions",
    "totals": "/by_type",
}
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Exchange(NamedTuple):
    """A request as it was sent, the response, and the recorded part of the response."""

    case: Case
    request: bytes
    response: Response
    outcome: str


class Difference(NamedTuple):
    """A response that differs from the recorded one; `kind` is the same for requests whose responses differ alike."""

    kind: str
    details: str


def outcome(response: Response, names: Mapping[str, str], *, shape: str | None = None) -> str:
    """The part of a response that is the same in all runs: status, problem type, sorted pointers of errors, headers.

    `names` maps values of this run, such as the names of regions, to their stand-ins. With `shape`, the name
    of an operation, the fields of a JSON body and their types are part of it.
    """
    kind = (response.header("content-type") or "").partition(";")[0]
    parts = [str(response.status)]
    if kind == "application/problem+json":
        parts += _of_problem(json.loads(response.body or b"{}"))
    elif kind == "application/x-ndjson":
        for line in response.body.splitlines():
            verdict = json.loads(line)
            parts.append(" ".join([f"\n  line {verdict['line']}: {verdict['status']}", *_of_problem(verdict)]))
    elif shape and kind == "application/json":
        opaque = _OPAQUE.get(shape)
        parts += sorted(f"\n  {place or '/'} {type_}" for place, type_ in _shape(json.loads(response.body), "", opaque))
    parts += sorted(f"\n  {name}: {_header(name, value, response.status)}" for name, value in _headers(response))
    return _stable(" ".join(parts), names)


def _of_problem(problem: Mapping[str, Any]) -> list[str]:
    pointers = sorted(error["pointer"] for error in problem.get("errors", ()))
    return [problem.get("type", "").removeprefix(_PROBLEM), *(json.dumps(pointer) for pointer in pointers)]


def _headers(response: Response) -> list[tuple[str, str]]:
    return [(name, value) for name, value in response.headers if name not in _UNSTABLE]


def _header(name: str, value: str, status: int) -> str:
    if name.startswith("ratelimit") or (name == "retry-after" and status == 429):
        return "..."
    if name == "allow":
        return ", ".join(sorted(value.split(", ")))
    return re.sub(r'"\d+"', '"N"', value) if name == "etag" else value


def _stable(text: str, names: Mapping[str, str]) -> str:
    for value, name in names.items():
        text = text.replace(value, name)
    return _UUID.sub("<uuid>", text)


def _shape(value: Any, place: str, opaque: str | None) -> set[tuple[str, str]]:
    if isinstance(value, dict) and value and place != opaque:
        return {found for name, member in value.items() for found in _shape(member, f"{place}/{name}", opaque)}
    if isinstance(value, list) and value:
        return {found for member in value for found in _shape(member, f"{place}/*", opaque)}
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return {(place, kinds.get(type(value), "null"))}


def digest(text: str | bytes) -> str:
    """Eight hexadecimal digits."""
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()[:8]


def write(operations: Mapping[str, Sequence[Exchange]], seed: int) -> None:
    """Record the responses."""
    found = {}
    for name, exchanges in sorted(operations.items()):
        digests = [digest(exchange.outcome) for exchange in exchanges]
        found[name] = {
            "requests": requests_digest([exchange.case for exchange in exchanges]),
            "count": len(exchanges),
            "outcomes": _histogram(exchanges),
            "distinct": dict(sorted((digest(exchange.outcome), exchange.outcome) for exchange in exchanges)),
            "responses": [" ".join(digests[n : n + _PER_LINE]) for n in range(0, len(digests), _PER_LINE)],
        }
    text = json.dumps({"seed": seed, "operations": found}, indent=1, ensure_ascii=False)
    RECORDED.write_text(text + "\n", encoding="utf-8")


def _histogram(exchanges: Sequence[Exchange]) -> dict[str, int]:
    def brief(exchange: Exchange) -> str:
        status, *others = exchange.outcome.partition("\n")[0].split()
        return " ".join([status, *(part for part in others[:1] if not part.startswith('"'))])

    return dict(sorted(Counter(map(brief, exchanges)).items()))


def requests_digest(cases: Sequence[Case]) -> str:
    """The digest of an operation's requests, before values of the system under test are filled in."""
    return digest("\n".join(map(repr, cases)))


def report(found: Sequence[Difference]) -> str:
    """The number of differences of each kind, and the first differences in detail."""
    counts = Counter(difference.kind for difference in found).most_common()
    kinds = "\n".join(f"  {count} x {kind}" for kind, count in counts)
    details = "\n\n".join(difference.details for difference in found[:_IN_DETAIL])
    return f"{len(found)} responses differ from the recorded ones:\n{kinds}\n\n{details}"


def differences(operations: Mapping[str, Sequence[Exchange]]) -> list[Difference]:
    """The responses that differ from the recorded ones."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["operations"]
    accepted = json.loads(ACCEPTED.read_text(encoding="utf-8"))["responses"]
    missing = [f"{name}: recorded, but not called now" for name in sorted(recorded.keys() - operations.keys())]
    found = [Difference(text, text) for text in missing]
    for name, exchanges in operations.items():
        known = recorded.get(name)
        if known is None or known["requests"] != requests_digest([exchange.case for exchange in exchanges]):
            text = f"{name}: the requests differ from the recorded ones; if that is intended, run: {COMMAND}"
            found.append(Difference(text, text))
            continue
        digests = " ".join(known["responses"]).split()
        for n, (exchange, expected) in enumerate(zip(exchanges, digests, strict=True)):
            if digest(exchange.outcome) not in (expected, accepted.get(name, {}).get(str(n), [""])[0]):
                found.append(_difference(name, n, exchange, known["distinct"][expected]))
    return found


def _difference(name: str, n: int, exchange: Exchange, expected: str) -> Difference:
    request = exchange.request[:1500].decode("utf-8", "backslashreplace")
    request = re.sub(r"Bearer pp_\w+", "Bearer pp_...", request)
    body = exchange.response.body[:1000].decode("utf-8", "backslashreplace")
    parts = {"recorded": expected, "now": exchange.outcome, "request": request, "response body": body}
    texts = [f"  {title}:\n    " + text.replace("\n", "\n    ") for title, text in parts.items()]
    present = f"digest of the present response: {digest(exchange.outcome)}"
    details = "\n".join([f"{name}, request {n} ({exchange.case.label}), {present}:", *texts])
    return Difference(f"{name}: {_changed(expected, exchange.outcome)}", details)


def _changed(before: str, now: str) -> str:
    """The lines of a response that are different, on one line."""
    old, new = before.split("\n"), now.split("\n")
    gone = [line.strip() for line in old if line not in new]
    added = [line.strip() for line in new if line not in old]
    return f"{', '.join(gone) or 'nothing'} -> {', '.join(added) or 'nothing'}"[:200]
