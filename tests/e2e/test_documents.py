"""The documents are true of the running services: the tour works as printed, a client generated from the OpenAPI file
does the same tour, and a fuzzer of that document finds no undocumented response."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploy.services import SERVICES, ServiceSpec
from shared.auth.clients import SCOPES
from tests.conftest import project_root
from tests.e2e.conftest import Cell
from tests.e2e.steps import decide, until_claimed

pytestmark = pytest.mark.timeout(400)

_EXAMPLES = 5
_SEED = 1
_NOBODYS = "00000000-0000-4000-8000-000000000000"
_END = "~ the next step ~"
BIN = Path(sys.executable).parent


_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FIRST_CLIENT = re.compile(r"^(\.venv/bin/piepowder clients create .*?) +#", re.MULTILINE)
_STEP = re.compile(r"```sh\n(.*?)```\n\n```\n(.*?)```", re.DOTALL)


def shown(answer: str) -> str:
    """A pattern for a response on the page: any id matches an id, and `…` matches any text."""
    parts = re.split(f"(…|{_UUID})", "".join(answer.split()))
    return "".join(".*" if part == "…" else _UUID if re.fullmatch(_UUID, part) else re.escape(part) for part in parts)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="the tour needs curl and jq")
def test_the_tour_of_the_docs_works_as_it_is_printed(cell: Cell, tmp_path: Path) -> None:
    page = (project_root() / "docs" / "intake-tour.md").read_text()
    steps = _STEP.findall(page)
    assert len(steps) == page.count("```sh") > 10, "each step has a response"
    (tmp_path / ".piepowder").symlink_to(cell.system.folder)
    (tmp_path / ".venv").symlink_to(BIN.parent)
    here = {"eu": cell.eu, "us": cell.us}
    [before] = _FIRST_CLIENT.findall((project_root() / "README.md").read_text())
    members = [re.sub(r"\.(eu|us)\b", lambda name: f'["{here[name[1]]}"]', command) for command, _ in steps]
    first, *commands = [re.sub(r"\b(?<!-)(eu|us)\b", lambda name: here[name[1]], line) for line in (before, *members)]
    script = f"set -e\n{first} > /dev/null\n" + "".join(f"{command}\necho; echo '{_END}'\n" for command in commands)
    run = subprocess.run(
        ["/usr/bin/env", "bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    outputs = run.stdout.replace(cell.eu, "eu").replace(cell.us, "us").split(_END)[:-1]
    for (command, answer), output in zip(steps, outputs, strict=True):
        assert re.fullmatch(shown(answer), "".join(output.split())), f"{command}\n{answer}\n{output}"
    assert {path.name for path in tmp_path.iterdir()} == {".piepowder", ".venv"}, "the tour leaves no files"


class Generated:
    """A client package for intake, and a key; `call` finds an operation by its id."""

    def __init__(self, package: str, url: str, key: str, closing: ExitStack) -> None:
        self._package = package
        self._url = url
        self._closing = closing
        self._client = closing.enter_context(self._module("client").AuthenticatedClient(base_url=url, token=key))

    def _module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self._package}.{name}")

    def type(self, name: str) -> Any:
        return getattr(self._module("models"), name)

    def model(self, name: str, /, **fields: Any) -> Any:
        """A value of one of the client's types."""
        return self.type(name).from_dict(fields)

    def file(self, content: bytes) -> Any:
        return self._module("types").File(payload=BytesIO(content))

    def call(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """The response: `status_code`, `parsed`, `headers`, `content`."""
        return self._module(f"api.default.{operation}").sync_detailed(*args, client=self._client, **kwargs)

    def other(self, name: str, regions: list[str], *scopes: str) -> "Generated":
        """The same with the key of a new client."""
        body = self.model("ClientBody", name=name, scopes=list(scopes), regions=regions, platforms=["*"])
        assert self.call("create_client", body=body).status_code == 201
        made = self.call("create_key", name, body=self.model("KeyBody"), idempotency_key=f'"{name}-1"')
        assert (made.status_code, made.parsed.client) == (201, name)
        return Generated(self._package, self._url, made.parsed.key, self._closing)


@pytest.fixture(scope="module")
def generated(cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    folder = tmp_path_factory.mktemp("generated")
    document, config = folder / "openapi.json", folder / "config.yaml"
    document.write_text(cell.client.get(f"{cell.url('intake')}/openapi.json").text)
    config.write_text("post_hooks: []\ncontent_type_overrides:\n  application/x-ndjson: application/octet-stream\n")
    run = subprocess.run(
        [
            BIN / "openapi-python-client",
            *("generate", "--path", document, "--config", config, "--meta", "none", "--fail-on-warning"),
            *("--output-path", folder / "intake_client"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    sys.path.insert(0, str(folder))
    with ExitStack() as closing:
        yield Generated("intake_client", cell.url("intake"), cell.system.key(), closing)
    sys.path.remove(str(folder))


def until(ask: Callable[[], Any], is_so: Callable[[Any], bool], seconds: float = 60) -> Any:
    """Repeat a call until its response satisfies `is_so`; return that response."""
    deadline = time.monotonic() + seconds
    while not ((answer := ask()).status_code == 200 and is_so(answer.parsed)):
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)
    return answer.parsed


def test_a_generated_client_does_the_whole_tour_of_items(cell: Cell, generated: Generated) -> None:
    def lamp(**other: Any) -> Any:
        of: dict[str, Any] = {"platform": "tour", "kind": "product", "id": "lamp/1", "markets": ["DE", "US"]}
        of |= {"title": "Desk lamp of oak", "price": {"amount_minor": 1265, "currency": "EUR"}, "reference": "tour 1"}
        return generated.model("ItemBody", **(of | other))

    first = lamp(version=1, gtin="4006381333931")
    accepted = generated.call("post_item", body=first, prefer="wait=30")
    assert (accepted.status_code, accepted.headers["preference-applied"]) == (202, "wait=30")
    receipt = accepted.parsed
    assert set(receipt.regions.additional_properties) == {cell.eu, cell.us}
    decided = receipt.status.regions.additional_properties
    assert {decided[region].status.value for region in (cell.eu, cell.us)} <= {"approved", "in_review"}
    assert generated.call("post_item", body=first).parsed.item_id == receipt.item_id

    newer = generated.call(
        "post_item", body=lamp(version=3, title="Desk lamp of oak and brass"), prefer="wait=30"
    ).parsed
    stale = generated.call("post_item", body=lamp(version=2), prefer="wait=30").parsed
    assert {found.status.value for found in stale.status.regions.additional_properties.values()} == {"superseded"}

    product = generated.type("ItemBodyKind")("product")
    explicit = generated.type("ItemBody")(platform="tour", kind=product, id="lamp/0", markets=["DE"])
    assert explicit.to_dict().keys() >= {"language", "title"}
    implicit = generated.model("ItemBody", platform="tour", kind="product", id="lamp/0", markets=["DE"])
    assert implicit.to_dict().keys() == {"platform", "kind", "id", "markets"}
    names = {generated.call("post_item", body=post).parsed.item_id for post in (explicit, implicit)}
    assert len(names) == 1, "a default value has the same result when it is sent as when it is left out"

    item = generated.call("get_item", receipt.item_id, prefer="wait=1").parsed
    assert (item.subject, item.version, item.reference) == ("tour:product:lamp/1", 1, "tour 1")

    refused = generated.call("post_item", body=lamp(gtin="40063", markets=["XX"]))
    assert refused.status_code == 422
    assert [error.pointer for error in refused.parsed.errors] == ["/gtin", "/markets/0"]

    lines = [lamp(id=f"lamp/{n}", markets=["DE"]).to_dict() for n in range(2, 5)]
    lines[1]["kind"] = "ship"
    body = "\n".join(map(json.dumps, lines)).encode()
    answer = generated.call("post_items", body=generated.file(body))
    verdicts = [json.loads(line) for line in answer.content.splitlines()]
    assert [(verdict["line"], verdict["status"]) for verdict in verdicts] == [(1, 202), (2, 422), (3, 202)]
    assert generated.model("RejectedLineView", **verdicts[1]).errors[0].pointer == "/kind"
    lamps = [generated.model("AcceptedLineView", **verdict).item_id for verdict in (verdicts[0], verdicts[2])]

    for item_id in lamps:  # once it is decided, it is in the lists too
        assert generated.call("get_item", item_id, prefer="wait=30").status_code == 200
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = generated.call("list_items", reference="tour 1", limit=2, **cursor).parsed
        found += page.items
        if page.next_ is None:
            break
        cursor = {"cursor": page.next_}
    assert {item.item_id for item in found} == {*lamps, receipt.item_id, newer.item_id, stale.item_id}
    versions = generated.call("get_subject", "tour", "product", "lamp/1").parsed.versions
    assert {version.version for version in versions} == {1, 2, 3}

    withdrawn = generated.call("withdraw_item", lamps[0], reason="sold")
    assert (withdrawn.status_code, withdrawn.parsed.item_id) == (202, lamps[0])
    assert set(generated.call("get_totals").parsed.regions.additional_properties) == {cell.eu, cell.us}
    assert generated.call("get_item", "00000000-0000-5000-8000-000000000000").status_code == 404


def test_an_older_version_stays_in_other_regions_until_it_is_withdrawn(cell: Cell, generated: Generated) -> None:
    def statuses(answer: Any) -> dict[str, str]:
        return {region: view.status.value for region, view in answer.regions.additional_properties.items()}

    def camera(version: int, *markets: str) -> str:
        of = {"platform": "tour", "kind": "product", "id": "camera", "title": "Spy camera in a clock"}
        accepted = generated.call("post_item", body=generated.model("ItemBody", **of, version=version, markets=markets))
        return str(accepted.parsed.item_id)

    older = camera(1, "DE", "US")
    in_both = {cell.eu: "in_review", cell.us: "in_review"}
    until(lambda: generated.call("get_item", older), lambda answer: statuses(answer) == in_both)
    newer = camera(2, "US")
    left = {cell.eu: "in_review", cell.us: "superseded"}
    until(lambda: generated.call("get_item", older), lambda answer: statuses(answer) == left)
    assert generated.call("withdraw_item", older).status_code == 202
    gone = {cell.eu: "withdrawn", cell.us: "superseded"}
    until(lambda: generated.call("get_item", older), lambda answer: statuses(answer) == gone)
    until(lambda: generated.call("get_item", newer), lambda answer: statuses(answer) == {cell.us: "in_review"})


def test_a_generated_client_does_the_whole_tour_of_notices_and_appeals(cell: Cell, generated: Generated) -> None:
    def status(answer: Any) -> str | None:
        of_region = answer.regions.additional_properties.get(cell.eu)
        return None if of_region is None else str(of_region.status.value)

    def reviewed(of: str, queue: str, action: str) -> None:
        while (held := until_claimed(cell, "tour-reviewer", queue))["case"]["item_id"] != of:
            pass  # cases of other tests in this module
        decide(cell, held, action)

    on_sale = {"platform": "tour", "kind": "product", "markets": ["DE"]}
    chair = generated.model("ItemBody", **on_sale, id="chair", title="Garden chair of oak")
    assert generated.call("post_item", body=chair).status_code == 202
    notice = generated.model(
        "NoticeBody",
        **on_sale,
        id="chair",
        reporter={"kind": "user", "name": "Ada Weber", "email": "ada@example.org"},
        ground="counterfeit",
        explanation="It bears our mark, and we have not made it.",
        locations=["https://tour.example/chair"],
        good_faith=True,
        reference="report-1",
    )
    accepted = generated.call("post_notice", body=notice)
    assert accepted.status_code == 202
    assert generated.call("post_notice", body=notice).parsed == accepted.parsed
    until(lambda: generated.call("get_notice", accepted.parsed.notice_id), lambda answer: status(answer) == "in_review")
    reviewed(accepted.parsed.notice_id, "notices", "approve")
    stays = until(lambda: generated.call("get_notice", accepted.parsed.notice_id), lambda a: status(a) == "decided")
    assert stays.regions.additional_properties[cell.eu].decision.action == "approve"
    assert stays.reference == "report-1"
    notice.reporter.name, notice.reference = "", "report-2"
    refused = generated.call("post_notice", body=notice)
    assert (refused.status_code, refused.parsed.errors[0].pointer) == (422, "/reporter/name")

    knife = generated.model("ItemBody", **on_sale, id="knife", title="Switchblade, as good as new")
    rejected = generated.call("post_item", body=knife, prefer="wait=30").parsed
    decision = rejected.status.regions.additional_properties[cell.eu].decision
    assert (decision.action, decision.automated) == ("reject", True)
    appeal = generated.model(
        "AppealBody",
        item_id=rejected.item_id,
        appellant={"kind": "seller", "name": "Messer GmbH"},
        explanation="It is a butter knife; only its handle folds.",
        reference="complaint-1",
    )
    accepted = generated.call("post_appeal", body=appeal)
    assert (accepted.status_code, accepted.parsed.decision_id) == (202, decision.decision_id)
    assert generated.call("post_appeal", body=appeal).parsed == accepted.parsed
    waits = until(lambda: generated.call("get_appeal", accepted.parsed.appeal_id), lambda a: status(a) == "in_review")
    assert (waits.item_id, waits.regions.additional_properties[cell.eu].queue) == (rejected.item_id, "appeals")
    appeal.reference = "complaint-2"
    again = generated.call("post_appeal", body=appeal)
    assert (again.status_code, again.parsed.type_.rpartition(":")[2]) == (409, "appeal-open")
    reviewed(accepted.parsed.appeal_id, "appeals", "overturn")
    overturned = until(
        lambda: generated.call("get_appeal", accepted.parsed.appeal_id), lambda a: status(a) == "decided"
    )
    assert overturned.regions.additional_properties[cell.eu].decision.action == "overturn"
    until(lambda: generated.call("get_item", rejected.item_id), lambda answer: status(answer) == "approved")


def test_a_generated_client_does_the_whole_tour_of_business_requests(cell: Cell, generated: Generated) -> None:
    lead_a, lead_b = (
        generated.other(name, [cell.eu], "requests:read", "requests:write", "requests:decide")
        for name in ("first-lead", "second-lead")
    )
    policies = [{"id": "lamps", "when": ["price.minor <"], "verdict": "review"}]
    draft = generated.model(
        "DraftBody",
        title="Cheap lamps are looked at",
        kind="policy_change",
        sponsor="moderation-lead",
        regions=[cell.eu],
        rationale="Copies are sold at a tenth of the usual price.",
        change={"policy_set": {"policies": policies, "default_verdict": "approve"}},
    )
    refused = generated.call("draft_request", body=draft, idempotency_key='"lamps"')
    assert (refused.status_code, refused.parsed.errors[0].pointer) == (422, "/change/policy_set/policies/0/when/0")

    policy = draft.change.policy_set.policies[0]
    policy.when = ["price.known && price.minor < 500"]
    drafted = generated.call("draft_request", body=draft, idempotency_key='"lamps"')
    assert (drafted.status_code, drafted.headers["etag"], drafted.parsed.check.verdict) == (201, '"1"', "fits")
    assert {(change.what, change.how) for change in drafted.parsed.check.differences} >= {("policies/lamps", "added")}
    request_id = drafted.parsed.request_id
    again = generated.call("draft_request", body=draft, idempotency_key='"lamps"')
    assert (again.status_code, again.parsed.request_id) == (201, request_id)

    shorter = generated.model("ChangeRequestBody", title="Cheap lamps")
    changed = generated.call("change_request", request_id, body=shorter, if_match='"1"')
    assert (changed.status_code, changed.parsed.title) == (200, "Cheap lamps")
    assert generated.call("change_request", request_id, body=shorter, if_match='"1"').status_code == 412
    assert generated.call("submit_request", request_id, if_match='"2"').parsed.state == "submitted"
    own = generated.call("approve_request", request_id)
    assert (own.status_code, own.parsed.type_.rpartition(":")[2]) == (403, "own-request")

    comment = generated.model("CommentBody", text="How many of them were wrong?")
    said = lead_a.call("comment_on_request", request_id, body=comment, idempotency_key='"1"')
    assert (said.status_code, said.parsed.by) == (201, "first-lead")
    assert lead_a.call("approve_request", request_id).parsed.state == "submitted"
    remark = generated.model("RemarkBody", reason="Shown to work on last week's items.")
    assert lead_b.call("approve_request", request_id, body=remark).parsed.state == "approved"
    assert lead_b.call("deploy_request", request_id).status_code == 403
    by_hand = generated.call("deploy_request", request_id)
    assert (by_hand.status_code, by_hand.parsed.type_.rpartition(":")[2]) == (409, "change-by-hand")

    whole = lead_b.call("get_request", request_id).parsed
    assert whole.state == "approved"
    assert [step.kind for step in whole.history] == [
        *("drafted", "changed", "submitted", "commented", "endorsed", "approved")
    ]
    assert [step.text for step in whole.comments] == [comment.text]
    assert whole.change.policy_set.policies[0].when == policy.when

    draft.title = "Cheaper lamps still"
    second = generated.call("draft_request", body=draft, idempotency_key='"more-lamps"').parsed.request_id
    reason = generated.model("ReasonBody", reason="Not now.")
    generated.call("submit_request", second)
    assert lead_a.call("reject_request", second, body=reason).parsed.state == "rejected"
    page = lead_a.call("list_requests", limit=1).parsed
    rest = lead_a.call("list_requests", limit=1, cursor=page.next_).parsed
    assert [found.request_id for found in (*page.requests, *rest.requests)] == [second, request_id]
    late = generated.call("withdraw_request", second)
    assert (late.status_code, late.parsed.type_.rpartition(":")[2]) == (409, "wrong-state")


def test_a_generated_client_does_the_whole_tour_of_clients(cell: Cell, generated: Generated) -> None:
    shop = generated.other("generated-shop", [cell.eu], "items:write", "items:read")
    assert shop.call("get_totals").status_code == 200
    assert shop.call("list_clients").status_code == 403

    slower = generated.model("ChangeBody", limit={"requests_per_second": 0.001, "burst": 2})
    assert generated.call("change_client", "generated-shop", body=slower).parsed.client.limit.burst == 2
    answers = [shop.call("get_totals") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) >= 1
    assert answers[2].parsed.type_.rpartition(":")[2] == "rate-limited"

    shown = generated.call("show_client", "generated-shop").parsed
    [old] = generated.call("list_keys", "generated-shop").parsed.keys
    assert (shown.keys[0].key_id, old.state) == (old.key_id, "live")
    successor = generated.call("create_key", "generated-shop", body=generated.model("KeyBody")).parsed
    ended = generated.call("revoke_key", "generated-shop", old.key_id).parsed
    assert [key.state for key in ended.client.keys] == ["revoked", "live"]
    assert ended.client.keys[1].key_id == successor.key_id
    deadline = time.monotonic() + 30
    while shop.call("get_totals").status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    names: list[str] = []
    cursor: Any = ""
    while cursor is not None:
        page = generated.call("list_clients", limit=1, cursor=cursor).parsed
        names += [client.name for client in page.clients]
        cursor = page.next_
    assert "generated-shop" in names


def test_a_key_of_another_region_reaches_no_item_of_this_one(cell: Cell, generated: Generated) -> None:
    vase: dict[str, Any] = {"platform": "tour", "kind": "product", "id": "vase", "markets": ["DE"]}
    on_sale = vase | {"title": "Switchblade in a vase"}
    item = generated.call("post_item", body=generated.model("ItemBody", **on_sale), prefer="wait=30").parsed
    about = {"explanation": "A vase with a secret, it would seem.", "reference": "vase-1"}
    report = vase | about
    report |= {"reporter": {"kind": "user"}, "ground": "csam", "locations": ["https://x.example/"], "good_faith": True}
    complaint = {"item_id": item.item_id, "appellant": {"kind": "seller"}, **about}
    draft = {"title": "More vases", "kind": "capacity", "regions": [cell.eu]}
    friend = {"name": "vases", "scopes": ["items:read"], "regions": [cell.eu], "platforms": ["*"]}
    generated.other("vase-shop", [cell.eu], "items:read")
    shop = generated.call("show_client", "vase-shop").parsed
    names = {
        **vase,
        "item_id": item.item_id,
        "notice_id": generated.call("post_notice", body=generated.model("NoticeBody", **report)).parsed.notice_id,
        "appeal_id": generated.call("post_appeal", body=generated.model("AppealBody", **complaint)).parsed.appeal_id,
        "request_id": generated.call(
            "draft_request", body=generated.model("DraftBody", **draft), idempotency_key='"vases"'
        ).parsed.request_id,
        "name": "vase-shop",
        "key_id": shop.keys[0].key_id,
    }
    bodies = {
        "/v1/items": on_sale,
        "/v1/items/batch": on_sale,
        "/v1/notices": report,
        "/v1/appeals": complaint,
        "/v1/requests": draft,
        "/v1/requests/{request_id}/comments": {"text": "Indeed."},
        "/v1/clients": friend,
        "/v1/clients/{name}": {"state": "disabled"},
        "/v1/clients/{name}/keys": {},
    }
    body = generated.model("ClientBody", name="elsewhere", scopes=sorted(SCOPES), regions=[cell.us], platforms=["*"])
    assert generated.call("create_client", body=body).status_code == 201
    made = generated.call("create_key", "elsewhere", body=generated.model("KeyBody")).parsed
    asked = []
    for service in (service for service in SERVICES if service.database):
        url = cell.url_of(service)
        for path, methods in cell.client.get(f"{url}/openapi.json").json()["paths"].items():
            for method, operation in methods.items():
                if not path.startswith("/v1/"):
                    continue
                kind = next(iter(operation.get("requestBody", {}).get("content", {})), None)
                headers = {"Authorization": f"Bearer {made.key}", "If-Match": "*", "Idempotency-Key": '"1"'}
                answer = cell.client.request(
                    method,
                    url + re.sub(r"{(\w+)}", lambda name: str(names.get(name[1], _NOBODYS)), path),
                    params={"region": cell.eu} if path == "/v1/waiting" else {},
                    headers=headers | ({"Content-Type": kind} if kind else {}),
                    content=json.dumps(bodies.get(path, {"reason": "So."})).encode() if kind else b"",
                )
                where = method, path, answer.status_code, answer.text
                if answer.status_code == 200 and path == "/v1/items/batch":
                    assert answer.json()["status"] == 403, where
                elif answer.status_code == 200:  # a list or totals
                    assert service.name == "intake", where
                    assert "{" not in path, where
                    assert not any(name in answer.text for name in ("vase", cell.eu)), where
                else:
                    assert answer.status_code in (403, 404), where
                    assert answer.json().keys() <= {"type", "title", "status", "detail", "errors"}, where
                asked.append(path)
    assert set(bodies) <= set(asked)
    assert generated.call("get_item", item.item_id).parsed.regions.additional_properties[cell.eu].status == "rejected"


# the router comes last, because its fuzzer changes the rules that the tours need
@pytest.mark.parametrize(
    "service",
    [pytest.param(service, id=service.name) for service in sorted(SERVICES, key=lambda it: it.name == "router")],
)
def test_a_fuzzer_finds_no_undocumented_response(cell: Cell, service: ServiceSpec, tmp_path: Path) -> None:
    url = cell.url_of(service)
    text = cell.client.get(f"{url}/openapi.json").text
    for region, here in (("eu", cell.eu), ("us", cell.us)):  # the examples need existing regions
        text = text.replace(f'"{region}"', f'"{here}"')
    document = tmp_path / "openapi.json"
    document.write_text(text.replace('"wait=10"', '"wait=0"'))  # no reviewer decides, so do not wait
    run = subprocess.run(
        [
            BIN / "schemathesis",
            *("--config-file", project_root() / "tests" / "e2e" / "schemathesis.toml"),
            *("run", document, "--url", url, "--header", f"Authorization: Bearer {cell.system.key()}"),
            *("--checks", "all", "--seed", str(_SEED), "--max-examples", str(_EXAMPLES)),
            *("--generation-database", "none", "--continue-on-failure", "--no-color"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(project_root())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    assert "Tested: " in run.stdout
