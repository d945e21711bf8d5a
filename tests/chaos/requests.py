"""The life cycle of business requests: drafted, edited, commented on, submitted, decided by two others, or
withdrawn; some steps are repeated, too early, or by the wrong person. Deployments, reviews and rollbacks are refused.

The seed determines each life: its steps, who makes them, their texts, and which are made at the same time. Only one
thing depends on the responses: whether a step must be sent again because its result is not known.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from deploy.initial import CONTROL
from shared.contracts.policy_documents import published_form
from tests.chaos.checker.cloudevents import derived
from tests.chaos.clients import PermanentClients
from tests.chaos.gate import Gate
from tests.chaos.load import Client

PATIENCE: Final = 40.0
AUTHOR: Final = "author"
LEADS: Final = ("lead-a", "lead-b")
ADMINISTRATOR: Final = "local"  # the key of the clients file, with all scopes
SCOPES: Final = {
    AUTHOR: ("requests:read", "requests:write"),
    **dict.fromkeys(LEADS, ("requests:read", "requests:write", "requests:decide")),
}
_REGIONS: Final = (["eu"], ["us"], ["eu", "us"], ["us", "eu"])
_HASTY: Final = 0.02  # seconds after which an impatient client disconnects
_AGAIN: Final = ("in-flight", "changed-meanwhile")  # after a 409 of this type, send the same call again
_REASONED: Final = ("reject", "rollback")
_encode = msgspec.json.Encoder().encode


class Step(NamedTuple):
    """A call. `key` and `match` are its Idempotency-Key and If-Match, empty without one; `wrong` are the
    statuses that correctly reject it; `hasty` clients disconnect during their first try."""

    by: str
    what: str
    body: dict[str, Any]
    key: str = ""
    match: str = ""
    wrong: tuple[int, ...] = ()
    hasty: bool = False


class Stage(NamedTuple):
    """Steps that are made at the same time, `after` seconds of delay."""

    after: float
    steps: tuple[Step, ...]


class Life(NamedTuple):
    """A request that starts `at` seconds after the start."""

    at: float
    request_id: str
    stages: tuple[Stage, ...]


class Lives:
    """The lives of requests; their ids are known before they start."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"requests-{seed}")
        self._policies = published_form(msgspec.yaml.decode((CONTROL / "policies.yaml").read_bytes()))
        self._date = (datetime.now(UTC) + timedelta(days=400)).date().isoformat()
        self._count = 0

    def all(self, rate: float, seconds: float) -> Iterator[Life]:
        """The lives in order, `rate` per second."""
        now = 0.0
        while (now := now + self._rng.expovariate(rate)) < seconds:
            yield self._life(now)

    def _life(self, at: float) -> Life:
        self._count += 1
        name = f"q-{self._count}"
        stages = tuple(self._stages(name))
        return Life(at, derived("request", AUTHOR, name), stages)

    def _stages(self, name: str) -> Iterator[Stage]:
        rng = self._rng
        draft = Step(AUTHOR, "draft", self._content(name), key=name, hasty=rng.random() < 0.1)
        yield self._at_once(*[draft] * rng.choice((1, 1, 2)))
        if rng.random() < 0.15:
            other = {**draft.body, "title": f"{name}, and another one under its key"}
            yield self._at_once(draft._replace(body=other, wrong=(422,)))
        edits = rng.choice((0, 1, 1, 2))
        for n in range(edits):
            yield self._at_once(*self._edits(name, n))
        yield from self._said(name, "early")
        end = rng.choices(("kept", "withdrawn", "submitted"), weights=(1, 1, 8))[0]
        if end == "withdrawn":
            yield self._at_once(self._act(AUTHOR, "withdraw"), self._act(AUTHOR, "submit"))
            yield from self._said(name, "late")
        if end == "submitted":
            submit = self._act(AUTHOR, "submit")
            yield self._at_once(*[submit] * rng.choice((1, 1, 2)))
            yield self._at_once(draft)
            yield from self._decided(name)

    def _decided(self, name: str) -> Iterator[Stage]:
        rng = self._rng
        if rng.random() < 0.2:
            yield self._at_once(self._act(AUTHOR, "approve", wrong=(403,)))
        first, second = rng.sample(LEADS, 2)
        approvals = [self._act(lead, "approve") for lead in (first, second)]
        how = rng.choices(("apart", "at once", "rejected", "withdrawn"), weights=(4, 3, 2, 1))[0]
        if how == "apart":
            yield self._at_once(*[approvals[0]] * rng.choice((1, 2)))
            yield from self._said(name, "between")
            yield self._at_once(approvals[1])
        elif how == "rejected":
            yield self._at_once(self._act(first, "reject"), approvals[1])
        else:
            more = [self._act(AUTHOR, "withdraw")] if how == "withdrawn" else []
            yield self._at_once(*approvals, *more)
        yield self._at_once(self._act(ADMINISTRATOR, "deploy", wrong=(409,)))
        ends = [self._act(first, "review", wrong=(409,)), self._act(ADMINISTRATOR, "rollback", wrong=(409,))]
        yield self._at_once(*rng.sample(ends, rng.choice((1, 1, 2))))
        if rng.random() < 0.3:
            yield self._at_once(self._act(AUTHOR, "withdraw"))
        yield from self._said(name, "late")

    def _edits(self, name: str, n: int) -> list[Step]:
        rng = self._rng
        patches: list[dict[str, Any]] = [
            {"title": f"{name}, edited {n}"},
            {"title": f"{name}, moved {n}", "regions": rng.choice(_REGIONS)},
            {"rationale": f"Because of {rng.randrange(10**6)}."},
        ]
        edits = [
            Step(rng.choice((AUTHOR, AUTHOR, ADMINISTRATOR)), "change", patch, hasty=rng.random() < 0.1)
            for patch in rng.sample(patches, rng.choice((1, 1, 2)))
        ]
        return [edit._replace(match=rng.choice(("*", "*", f'"{n + 1}"'))) for edit in edits]

    def _said(self, name: str, when: str) -> Iterator[Stage]:
        rng = self._rng
        if rng.random() < 0.5:
            by = rng.choice((AUTHOR, *LEADS))
            said = Step(by, "comment", {"text": f"About {name}, {when}."}, key=f"{name}-{when}")
            yield self._at_once(*[said._replace(hasty=rng.random() < 0.1)] * rng.choice((1, 2)))

    def _act(self, by: str, what: str, wrong: tuple[int, ...] = ()) -> Step:
        body = {"reason": f"{by} says so"} if what in _REASONED or self._rng.random() < 0.3 else {}
        return Step(by, what, body, wrong=wrong, hasty=self._rng.random() < 0.1)

    def _at_once(self, *steps: Step) -> Stage:
        return Stage(self._rng.choice((0.0, self._rng.uniform(0.1, 2.5))), steps)

    def _content(self, name: str) -> dict[str, Any]:
        rng = self._rng
        regions = rng.choice(_REGIONS)
        content: dict[str, Any] = {
            "title": name,
            "kind": rng.choice(("capacity", "new_category")),
            "sponsor": "sponsor",
            "regions": regions,
            "expected_items_per_day": rng.randrange(10**6),
            "expected_date": self._date,
            "rationale": "More is sold than before. " * rng.randint(1, 10),
        }
        if rng.random() < 0.15:
            content |= {"kind": "policy_change", "change": {"policy_set": self._policies}}
        return content


class Business:
    """Carries out the lives: repeats each step until its result is known."""

    def __init__(self, client: Client, intake: int, clients: PermanentClients, gate: Gate, seed: int) -> None:
        self._client = client
        self._intake = intake
        self._clients = clients
        self._gate = gate
        self._seed = seed
        self.tally: Counter[str] = Counter()

    async def run(self, rate: float, seconds: float, stop: asyncio.Event) -> None:
        """Start requests at `rate` per second until `stop`; then each request stops after its current stage."""
        loop = asyncio.get_running_loop()
        if not all([await self._clients.create(name, scopes, stop) for name, scopes in SCOPES.items()]):
            return
        started = loop.time()
        async with asyncio.TaskGroup() as living:
            for life in Lives(self._seed).all(rate, seconds):
                if await _stopped(stop, started + life.at - loop.time()):
                    break
                living.create_task(self._live(life, stop))

    async def _live(self, life: Life, stop: asyncio.Event) -> None:
        for stage in life.stages:
            if await _stopped(stop, stage.after):
                return
            await asyncio.gather(*(self._make(life.request_id, step) for step in stage.steps))

    async def _make(self, request_id: str, step: Step) -> None:
        loop = asyncio.get_running_loop()
        rng, begun = random.Random(f"{self._seed}-{request_id}-{step.what}"), loop.time()
        path = {"draft": "/v1/requests", "change": f"/v1/requests/{request_id}"}.get(
            step.what, f"/v1/requests/{request_id}/{'comments' if step.what == 'comment' else step.what}"
        )
        facts = {
            "by": step.by,
            "request_id": request_id,
            "body": {name: value for name, value in step.body.items() if name != "change"},
            "key": step.key,
            "match": step.match,
            "wrong": step.wrong,
        }
        headers = {"Authorization": f"Bearer {self._clients.key(step.by)}"}
        headers |= {"Idempotency-Key": f'"{step.key}"'} if step.key else {}
        headers |= {"If-Match": step.match} if step.match else {}
        hasty = step.hasty
        while True:
            async with self._gate.passing():
                status, result = await self._client.call(
                    f"request.{step.what}",
                    facts,
                    (self._intake, path),
                    _encode(step.body),
                    method="PATCH" if step.what == "change" else "POST",
                    headers=headers,
                    read=lambda answer: _gist(answer.json()),
                    timeout=_HASTY if hasty else 15.0,
                )
            self.tally[f"{step.what} {status or 'no response'}"] += 1
            again = status == 409 and result.get("type", "").rpartition(":")[2] in _AGAIN
            if loop.time() - begun > PATIENCE or not (again or status in (None, 429, 503)):
                return
            hasty = False
            await asyncio.sleep(rng.uniform(0.3, 1.5))


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for `seconds` or until `stop`; return True if `stop` is set."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True


def _gist(result: dict[str, Any]) -> dict[str, Any]:
    """The part of a response that can be compared with the stored request."""
    names = ("request_id", "state", "version", "title", "regions", "comment_id", "text", "by")
    return {name: result[name] for name in names if name in result}
