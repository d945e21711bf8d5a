"""Valid calls in a fixed order: the documented examples, on objects that the bad requests then refer to.

The calls are recorded with the fields of their responses and the fields' types. At the end no case is waiting for a
review, so the responses to the bad requests do not depend on time.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from tests.contract.rest_corpus.calls import Response
from tests.contract.rest_corpus.cases import LINES, PROBES, Case, fill, operations, text_of
from tests.contract.rest_corpus.recording import Exchange, outcome

Json = dict[str, Any]

_SECONDS: Final = 60.0
_DAY: Final = 86_400
_UNKNOWN_KEY: Final = "pp_corpus_nXptfAte4dwhtzN0q6GZYftrArjb174766e1"  # well-formed, and no client has it
_NAME: Final = "corpus-{run}-{key}"
_REPLICA: Final = "Replica watch, 1:1 copy"  # the sample's policies send it to the queue `counterfeit`


class Scenario:
    """Makes the valid calls. `urls` has the base URLs of the services, `values` the value of each `@name@`."""

    def __init__(self, urls: Mapping[str, str], eu: str, us: str, key: str) -> None:
        self._urls = urls
        self._run = eu.removesuffix("-eu")
        self._http = httpx.Client(timeout=30, trust_env=False)
        self._operations = {
            (operation.service, operation.name): operation for service in PROBES for operation in operations(service)
        }
        future = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() + 200 * _DAY))
        self.values = {"eu": eu, "us": us, "key:all": key, "future": future, "etag": '"1"'}
        self.values |= {"made": _NAME.format(run=self._run, key="made"), "key:mistyped": f"{key[:-1]}~"}
        self.values["key:unknown"] = _UNKNOWN_KEY
        self.names = {eu: "<eu>", us: "<us>", self._run: "<run>"}
        self.exchanges: dict[str, list[Exchange]] = {}

    def play(self) -> None:
        """Make all calls."""
        with self._http:
            self._clients()
            self._items()
            self._reviews()
            self._requests()
            self._audit()
            self._control()
            for service in PROBES:
                for name in ("healthz", "readyz", "metrics"):
                    self.call(service, name)

    def call(
        self,
        service: str,
        name: str,
        body: Any = None,
        /,
        *,
        key: str = "all",
        query: str = "",
        headers: Mapping[str, str] | None = None,
        recorded: bool = True,
        **path: str,
    ) -> Any:
        """Call an operation with its documented example or with `body`, and record the response; returns its JSON."""
        operation = self._operations[service, name]
        sent = {field.decode(): value.decode() for field, value in operation.headers()} | dict(headers or {})
        content = None
        if operation.kind:
            text = text_of(operation.example() if body is None else body)
            content = fill(text + b"\n" if operation.kind == LINES else text, self.values)
        url = self._urls[service] + fill(operation.path(**path), self.values).decode() + query
        sent = {field: value for field, value in sent.items() if value != "@etag@"}
        sent["Authorization"] = f"Bearer {self.values[f'key:{key}']}"
        response = self._http.request(operation.method, url, content=content, headers=sent)
        if recorded:
            self._record(service, name, key, query, response)
        kind = response.headers.get("content-type", "")
        if kind.startswith(LINES):
            return [json.loads(line) for line in response.content.splitlines()]
        return response.json() if kind.startswith("application/json") else None

    def _record(self, service: str, name: str, key: str, query: str, response: httpx.Response) -> None:
        operation = self._operations[service, name]
        fields = [(field.lower(), value) for field, value in response.headers.items()]
        found = Response(response.status_code, fields, response.content)
        label = f"{name} by {key} {query.partition('=')[0]}"
        case = Case(f"scenario {service}", label, operation.method, operation.template.encode(), key)
        request = f"{operation.method} {response.request.url}\n\n{response.request.content.decode()}"
        exchange = Exchange(case, request.encode(), found, outcome(found, self.names, shape=name))
        self.exchanges.setdefault(case.operation, []).append(exchange)

    def _clients(self) -> None:
        """Create a client for each reason to reject a key, and wait until all services know it."""
        scopes = sorted({operation.scope for operation in self._operations.values() if operation.scope})
        by_platform = [scope for scope in scopes if scope.startswith(("items:", "notices:", "appeals:"))]
        slow = {"requests_per_second": 0.001, "burst": 1}
        everything: Json = {"scopes": scopes, "regions": ["@eu@", "@us@"], "platforms": ["*"]}
        wanted: dict[str, Json] = {
            "target": {"scopes": ["items:read", "items:write"]},
            "lead": {},
            "second": {},
            "reader": {"scopes": ["items:read"]},
            "auditor": {"scopes": ["audit:read"]},
            "elsewhere": {"regions": ["@us@"]},
            "platform": {"scopes": by_platform, "platforms": ["elsewhere"]},
            "limited": {"limit": slow},
            "revoked": {},
            "disabled": {},
        }
        for key, own in wanted.items():
            name = _NAME.format(run=self._run, key=key)
            self.values["client" if key == "target" else f"client:{key}"] = name
            self.call("intake", "createClient", {"name": name, **everything, **own})
            made = self.call("intake", "createKey", {}, headers={"Idempotency-Key": f'"{key}"'}, name=name)
            self.values[f"key:{key}"], self.values[f"id:{key}"] = made["key"], made["key_id"]
        for key in wanted:
            self._until_everywhere(key, lambda status: status != 401)
        self._until_everywhere("limited", lambda status: status == 429)
        self.call("intake", "listClients", query="?limit=200")
        self.call("intake", "showClient")
        self.call("intake", "listKeys")
        self.call("intake", "changeClient")
        self.call("intake", "createKey", headers={"Idempotency-Key": '"another"'})
        self.call("intake", "revokeKey", name="@client:revoked@", key_id=self.values["id:revoked"])
        self.call("intake", "revokeKey", name="@client:revoked@", key_id=self.values["id:revoked"])
        self.call("intake", "changeClient", {"state": "disabled"}, name="@client:disabled@")
        for key in ("revoked", "disabled"):
            self._until_everywhere(key, lambda status: status == 401)

    def _until_everywhere(self, key: str, reached: Callable[[int], bool]) -> None:
        headers = {"Authorization": f"Bearer {self.values[f'key:{key}']}"}
        for service, path in PROBES.items():
            url = self._urls[service] + path
            _until(lambda url=url: self._http.get(url, headers=headers).status_code, reached)  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def _items(self) -> None:
        posted = {
            "example": self.call("intake", "postItem"),
            "decided": self.call("intake", "postItem", _item("decided", title=_REPLICA)),
            "withdrawn": self.call("intake", "postItem", _item("withdrawn")),
        }
        self.call("intake", "postItem")
        [line] = self.call("intake", "postItems")
        posted["line"] = line
        for name, receipt in posted.items():
            self.values[f"item:{name}"] = receipt["item_id"]
            self._until_status("getItem", "approved", "rejected", "in_review", item_id=receipt["item_id"])
        self.values["item:getItem"] = self.values["item:decided"]
        self.values["item:withdrawItem"] = self.values["item:withdrawn"]
        self.values["event"] = posted["decided"]["regions"][self.values["eu"]]["event_id"]
        self.call("intake", "getItem")
        self.call("intake", "getItem", item_id="@item:example@")
        self.call("intake", "withdrawItem", query="?reason=sold%20elsewhere")
        _until(
            lambda: self._until_status("getItem", "approved", "withdrawn", item_id="@item:withdrawn@"),
            lambda found: bool(found.get("withdrawn_at")),
        )
        self.call("intake", "listItems", query="?reference=import-2026-05-01")
        self.call("intake", "getSubject")
        self.call("intake", "getTotals")

    def _until_status(self, name: str, *statuses: str, **path: Any) -> Json:
        """Wait until an object has one of the statuses in the region, and decision has opened its case."""

        def status() -> Any:
            shown = self.call("intake", name, recorded=False, **path)
            return (shown or {}).get("regions", {}).get(self.values["eu"], {})

        def is_reached(found: Json) -> bool:
            if found.get("status") != "in_review":
                return found.get("status") in statuses
            opened = self.call("decision", "case", case_id=found["case_id"], recorded=False)
            return "in_review" in statuses and opened is not None

        return dict(_until(status, is_reached))

    def _claim(self, reviewer: str, *queues: str, recorded: bool = True) -> Any:
        body = {"reviewer": reviewer, "team": "in_house", "queues": list(queues)}
        headers = {"Idempotency-Key": f'"{time.monotonic_ns()}"'}
        return self.call("decision", "claim", body, headers=headers, recorded=recorded)

    def _decide(self, claimed: Json, action: str, *, recorded: bool = True) -> None:
        body = {"lease_token": claimed["lease"]["token"], "action": action, "reasons": ["COUNTERFEIT"]}
        self.call("decision", "decide", body, case_id=claimed["case"]["case_id"], recorded=recorded)

    def _reviews(self) -> None:
        self.call("decision", "cases")
        first = self.call("decision", "claim")
        self.values["case"] = first["case"]["case_id"]
        self.call("decision", "heartbeat", {"lease_token": first["lease"]["token"], "reviewer": "r-71"})
        self.call("decision", "release", {"lease_token": first["lease"]["token"], "reason": "not my language"})
        self.call("decision", "release", {"lease_token": first["lease"]["token"], "reason": "not my language"})
        again = self._claim("r-71", "counterfeit")
        for action in ("overturn", "reject", "reject", "approve"):
            self._decide(again, action)
        self.call("decision", "heartbeat", {"lease_token": again["lease"]["token"]})
        self._claim("r-71", "counterfeit")
        self._claim("r-71", "sellers")

        receipt = self.call("intake", "postNotice")
        self.values["notice"] = receipt["notice_id"]
        self.call("intake", "postNotice")
        self._until_status("getNotice", "in_review")
        self.call("intake", "getNotice")
        self.call("intake", "postAppeal")
        appeal = self._operations["intake", "postAppeal"].example() | {"item_id": self.values["item:decided"]}
        del appeal["decision_id"]
        self._until_status("getItem", "rejected")
        receipt = self.call("intake", "postAppeal", appeal)
        self.values["appeal"] = receipt["appeal_id"]
        self._until_status("getAppeal", "in_review")
        self.call("intake", "postAppeal", appeal)
        self.call("intake", "postAppeal", appeal | {"reference": "another"})
        self.call("intake", "getAppeal")
        self._decide(self._claim("r-72", "notices"), "approve")
        self._claim("r-71", "appeals")
        self._decide(self._claim("r-72", "appeals"), "uphold")
        while (left := self._claim("r-73", recorded=False)) is not None:
            self._decide(left, "approve", recorded=False)
        self._claim("r-71")
        for name in ("queues", "totals", "case", "cases"):
            self.call("decision", name)

    def _requests(self) -> None:
        """Create a business request for each operation, in a state that allows the operation."""
        acts: dict[str, list[str]] = {
            **{name: [] for name in ("getRequest", "changeRequest", "commentOnRequest", "submitRequest")},
            "withdrawRequest": ["submitRequest"],
            "approveRequest": ["submitRequest"],
            "rejectRequest": ["submitRequest"],
            "deployRequest": ["submitRequest", "approveRequest", "approveRequest"],
            "rollbackRequest": ["submitRequest", "approveRequest", "approveRequest", "deployRequest"],
            "reviewRequest": ["submitRequest", "approveRequest", "approveRequest", "deployRequest"],
        }
        for name, before in acts.items():
            draft = self.call("intake", "draftRequest", headers={"Idempotency-Key": f'"{name}"'})
            self.values[f"request:{name}"] = request_id = draft["request_id"]
            approvers = iter(("lead", "second"))
            for act in before:
                key = next(approvers) if act == "approveRequest" else "all"
                self.call("intake", act, key=key, request_id=request_id)
        [other, ended] = (
            self.call("intake", "draftRequest", headers={"Idempotency-Key": f'"{name}"'}) for name in ("a", "b")
        )
        whole, taken_back = other["request_id"], ended["request_id"]
        self.call("intake", "changeRequest", headers={"If-Match": '"1"'}, request_id=whole)
        self.call("intake", "changeRequest", headers={"If-Match": '"1"'}, request_id=whole)
        self.call("intake", "commentOnRequest", request_id=whole)
        self.call("intake", "submitRequest", request_id=whole)
        self.call("intake", "approveRequest", request_id=whole)
        self.call("intake", "approveRequest", key="lead", request_id=whole)
        self.call("intake", "approveRequest", key="second", request_id=whole)
        for name in ("deployRequest", "rollbackRequest", "reviewRequest"):
            self.call("intake", name, key="lead", request_id=whole)
        self.call("intake", "withdrawRequest", request_id=taken_back)
        self.call("intake", "getRequest", request_id=whole)
        self.call("intake", "listRequests")
        self.call("intake", "listRequests", query="?state=submitted&kind=policy_change&sponsor=moderation-lead")

    def _control(self) -> None:
        """Publish the policies in force with another title: the rules stay the same."""
        shown = self.call("router", "show")
        number = shown["policy_set"]["number"]
        self.call("router", "check")
        names = ("terms", "term_options", "policies", "default_verdict")
        policy_set = {name: shown["policy_set"][name] for name in names if name in shown["policy_set"]}
        policy_set["policies"][-1]["title"] = "Low risk"
        body = {"operating_model": {"regions": shown["operating_model"]["regions"]}, "policy_set": policy_set}
        self.call("router", "check", body)
        self.call("router", "publish", body)
        _until(
            lambda: self.call("router", "show", recorded=False)["policy_set"]["number"], lambda found: found > number
        )

    def _audit(self) -> None:
        def decisions() -> int:
            shown = self.call("audit", "timeline", recorded=False) or {"events": []}
            return sum(event["type"] == "piepowder.decision.made.v1" for event in shown["events"])

        _until(decisions, lambda count: count == 2)  # about the item, and about the appeal
        _until(lambda: self.call("audit", "event", recorded=False) is not None, bool)
        self.call("audit", "timeline")
        self.call("audit", "event")
        self.call("audit", "events", query="?limit=10")  # there are more, so `next` is a number
        self.call("audit", "deadletters")
        self.call("audit", "totals")


def _item(id_: str, **own: Any) -> Json:
    item = {"platform": "corpus", "kind": "product", "id": id_, "version": 1, "markets": ["DE"], "title": "Desk lamp"}
    return item | own


def _until(ask: Callable[[], Any], reached: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + _SECONDS
    while not reached(found := ask()):
        assert time.monotonic() < deadline, f"after {_SECONDS:.0f} seconds it is still {found!r}"
        time.sleep(0.05)
    return found
