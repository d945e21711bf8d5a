"""An open-loop load: items arrive at a fixed rate, whatever the system does; reviewers work, delay and disappear.

The seed determines everything that is sent, except what depends on leases. Latency counts from the time when an item
was due, so that a client that waits does not hide a stall. Time, number and calls in flight are limited. Some items are
withdrawn: while their post is in flight, before a decision, long after it, more than once; and some items that were
never posted. Some subjects get notices, and some decisions get appeals: too early, in time, and more than once.
"""

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Final

import msgspec

from tests.chaos.checker.cloudevents import derived
from tests.chaos.journal import Journal
from tests.chaos.web import Answer, Web

SUBJECTS: Final = 1500
LEASE_SECONDS: Final = 5
_UNDER_WAY: Final = 1200
_PATIENCE: Final = 40.0
_TIMEOUT: Final = 15.0
_HASTY: Final = 0.02  # seconds after which an impatient client disconnects
_MARKETS: Final = (["DE"], ["DE", "FR"], ["US"], ["US", "CA"], ["DE", "US"])
MARKETS: Final = {"DE": "eu", "FR": "eu", "US": "us", "CA": "us"}
_BAD: Final = (
    '{"platform": "shop", "kind": "product"',
    '{"platform": "shop", "kind": "product", "id": "bad", "version": 1, "markets": ["XX"]}',
    '{"platform": "shop", "kind": "product", "id": "", "version": 1, "markets": ["DE"]}',
    '{"platform": "shop", "kind": "ship", "id": "bad", "version": 1, "markets": ["DE"]}',
    '{"platform": "shop", "kind": "product", "id": "bad", "version": 0, "markets": ["DE"]}',
    '{"platform": "shop", "kind": "product", "id": "bad", "version": 1, "markets": ["DE"], "price": 12.5}',
    '{"platform": "shop", "kind": "product", "id": "bad", "version": 1, "markets": ["DE"], "colour": "red"}',
    "[]",
)
_encode = msgspec.json.Encoder().encode

Endpoint = tuple[int, str]  # loopback port and path


@dataclass(frozen=True, slots=True)
class Arrival:
    """A post that is due `at` seconds after the start: one item, or the lines of a batch; `bad` has numbers of lines
    from 1."""

    at: float
    lines: list[str]
    bad: list[int]
    hasty: bool

    @property
    def batch(self) -> bool:
        return len(self.lines) > 1


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A withdrawal that is due `at` seconds after the start."""

    at: float
    item_id: str


@dataclass(frozen=True, slots=True)
class Complaint:
    """A notice or an appeal (`kind`) that is due `at` seconds after the start; `body` is JSON."""

    at: float
    kind: str
    body: str


@dataclass(slots=True)
class Tally:
    """The results of the load. Latencies are seconds from the due time to a 202; `accepted_at` is on the load's
    clock."""

    intended: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    accepted_at: list[float] = field(default_factory=list)
    given_up: int = 0
    not_sent: int = 0
    reviews: Counter[str] = field(default_factory=Counter)
    withdrawals: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)


class Items:
    """The posts and withdrawals: subjects by Zipf's law, growing versions, gaps that are filled late, repeated
    posts."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"items-{seed}")
        self._back = random.Random(f"withdrawals-{seed}")
        self._taken_back: list[tuple[float, str]] = []
        self._moods = random.Random(f"complaints-{seed}")
        self._complaints: list[tuple[float, str, str]] = []
        self._complained = 0
        self._weights = list(accumulate(1 / rank**1.1 for rank in range(1, SUBJECTS + 1)))
        self._versions: dict[int, int] = {}
        self._skipped: dict[int, list[int]] = {}
        self._sent: dict[int, list[str]] = {}
        self._free = 0

    def arrivals(self, rate: float, seconds: float) -> Iterator[Arrival | Withdrawal | Complaint]:
        """All posts and withdrawals in order; the gaps between posts are exponential."""
        now = 0.0
        while (now := now + self._rng.expovariate(rate)) < seconds:
            while self._taken_back and self._taken_back[0][0] <= now:
                yield Withdrawal(*heapq.heappop(self._taken_back))
            while self._complaints and self._complaints[0][0] <= now:
                yield Complaint(*heapq.heappop(self._complaints))
            count = self._rng.randint(10, 40) if self._rng.random() < 0.02 else 1
            lines, bad = [], []
            for number in range(1, count + 1):
                if self._rng.random() < 0.04:
                    lines.append(self._rng.choice(_BAD))
                    bad.append(number)
                else:
                    lines.append(self._next())
            yield Arrival(now, lines, bad, self._rng.random() < 0.02)
            for number, line in enumerate(lines, 1):
                if number not in bad:
                    self._withdraw(now, line)
                    self._complain(now, line)

    def _complain(self, now: float, line: str) -> None:
        rng, posted = self._moods, msgspec.json.decode(line)
        if rng.random() > 0.06:
            return
        self._complained += 1
        said: dict[str, Any] = {
            "explanation": "They did not make it, and we did. " * 2,
            "reference": f"c-{self._complained}",
        }
        if rng.random() < 0.5 or "version" not in posted:
            kind, delay = "notice", rng.choice((0.0, rng.uniform(0.5, 10.0)))
            body = {name: posted[name] for name in ("platform", "kind", "id", "markets")} | said
            who = {"kind": rng.choice(("user", "trusted_flagger", "authority")), "name": "Ada", "email": "a@b.example"}
            body |= {"reporter": who, "ground": "counterfeit", "locations": ["https://shop.example/1"]}
            body["good_faith"] = True
        else:
            kind, delay = "appeal", rng.choice((rng.uniform(0.5, 2.0), rng.uniform(3.0, 20.0), rng.uniform(3.0, 20.0)))
            named = [str(posted[name]) for name in ("platform", "kind", "id", "version")]
            region = MARKETS[rng.choice(posted["markets"])]
            body = {"item_id": derived("item", *named), "region": region, "appellant": {"kind": "seller"}} | said
        for _ in range(rng.choice((1, 1, 2))):
            heapq.heappush(self._complaints, (now + delay, kind, _encode(body).decode()))
            delay += rng.choice((0.0, rng.uniform(0.1, 3.0)))

    def _withdraw(self, now: float, line: str) -> None:
        rng = self._back
        if rng.random() > 0.06:
            return
        body = msgspec.json.decode(line)
        named = [str(body.get(name, "")) for name in ("platform", "kind", "id", "version")]
        item_id = derived("item", *named) if "version" in body else derived("nobody's", line)
        delay = rng.choice((0.0, rng.uniform(0.02, 2.0), rng.uniform(0.02, 2.0), rng.uniform(4.0, 25.0)))
        for _ in range(rng.choice((1, 1, 2, 3))):
            heapq.heappush(self._taken_back, (now + delay, item_id))
            delay += rng.choice((0.0, rng.uniform(0.1, 5.0)))

    def _next(self) -> str:
        rng = self._rng
        if rng.random() < 0.03:
            self._free += 1
            return self._body(f"free-{self._free}", None, rng.choice(_MARKETS))
        subject = rng.choices(range(SUBJECTS), cum_weights=self._weights)[0]
        chance = rng.random()
        if chance < 0.12 and self._sent.get(subject):
            return rng.choice(self._sent[subject])
        if chance < 0.24 and self._skipped.get(subject):
            version = self._skipped[subject].pop()
        else:
            last = self._versions.get(subject, 0)
            version = last + rng.choice((1, 1, 1, 2, 3))
            self._skipped.setdefault(subject, []).extend(range(last + 1, version))
            self._versions[subject] = version
        body = self._body(f"s-{subject}", version, _MARKETS[subject % len(_MARKETS)])
        self._sent.setdefault(subject, []).append(body)
        return body

    def _body(self, subject: str, version: int | None, markets: list[str]) -> str:
        rng = self._rng
        body: dict[str, Any] = {"platform": "shop", "kind": "product", "id": subject, "markets": markets}
        if version is not None:
            body["version"] = version
        verdict = rng.choices(("review", "approve", "reject"), weights=(4, 5, 1))[0]
        titles = {
            "review": "Replica watch 1:1 copy",
            "approve": "Garden chair of oak, solid",
            "reject": "Live ammunition",
        }
        body |= {
            "title": f"{titles[verdict]} {rng.randrange(10**6)}",
            "text": "Ships within two days. " * rng.randint(1, 8),
            "brand": "Oak & Sons",
            "language": "en",
            "price": {"amount_minor": rng.randint(2_000, 60_000), "currency": "EUR"},
        }
        return _encode(body).decode()


class Client:
    """Calls services; records each call in the journal before it is sent, and each response before it is used."""

    def __init__(self, key: str, journal: Journal) -> None:
        self._journal = journal
        self._web = Web({"Authorization": f"Bearer {key}"})

    def close(self) -> None:
        self._web.close()

    async def call(
        self,
        kind: str,
        facts: dict[str, Any],
        place: Endpoint,
        content: bytes,
        *,
        method: str = "POST",
        media_type: str = "application/json",
        read: Callable[[Answer], Any] = Answer.json,
        timeout: float = _TIMEOUT,
        headers: dict[str, str] | None = None,
    ) -> tuple[int | None, Any]:
        """The status and the result of `read` for a 2xx; None if there was no response."""
        n = self._journal.sent(kind, facts)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._web.call(method, *place, content, {"Content-Type": media_type, **(headers or {})})
        except (OSError, TimeoutError) as error:
            self._journal.lost(n, type(error).__name__)
            return None, None
        result = read(answer) if answer.status < 300 and answer.content else _problem(answer)
        self._journal.answered(n, answer.status, answer.headers.get("retry-after"), result)
        return answer.status, result

    async def get(self, place: Endpoint) -> Answer | None:
        """GET a response without a journal entry; None without a response."""
        try:
            async with asyncio.timeout(5):
                return await self._web.call("GET", *place)
        except (OSError, TimeoutError):
            return None


class Load:
    """Posts items to intake at `rate` per second for `seconds`, and withdraws some of them."""

    def __init__(self, client: Client, intake: int, seed: int) -> None:
        self._client = client
        self._intake = intake
        self._seed = seed
        self._under_way: set[asyncio.Task[None]] = set()
        self._started = 0.0
        self.tally = Tally()

    async def run(self, rate: float, seconds: float, stop: asyncio.Event) -> None:
        """Send everything and wait for the last responses, within a limited time; `stop` ends it early."""
        loop = asyncio.get_running_loop()
        self._started = loop.time()
        try:
            for arrival in Items(self._seed).arrivals(rate, seconds):
                if (wait := self._started + arrival.at - loop.time()) > 0:
                    await asyncio.sleep(wait)
                if stop.is_set():
                    break
                full = len(self._under_way) >= _UNDER_WAY
                if not isinstance(arrival, Arrival):
                    if not full:
                        self._begin(
                            self._withdraw(arrival) if isinstance(arrival, Withdrawal) else self._complain(arrival)
                        )
                    continue
                self.tally.intended += len(arrival.lines)
                if full:
                    self.tally.not_sent += len(arrival.lines)
                else:
                    self._begin(self._send(arrival))
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=_PATIENCE + _TIMEOUT)
        finally:
            late = list(self._under_way)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _begin(self, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def longest_stall(self) -> float:
        """The longest time in seconds without an accepted item."""
        moments = sorted(self.tally.accepted_at)
        return max((b - a for a, b in pairwise(moments)), default=0.0)

    async def _send(self, arrival: Arrival) -> None:
        rng, loop = random.Random(f"{self._seed}-{arrival.at}"), asyncio.get_running_loop()
        due, pause, hasty = self._started + arrival.at, 0.2, arrival.hasty
        while True:
            status, counts = await (self._batch if arrival.batch else self._one)(arrival, _HASTY if hasty else _TIMEOUT)
            self.tally.statuses.update(counts)
            if status is not None and status not in (429, 503) and status < 500:
                if status in (200, 202):
                    self.tally.accepted_at.append(loop.time() - self._started)
                    self.tally.latencies.append(loop.time() - due)
                return
            if loop.time() - due > _PATIENCE:
                self.tally.given_up += 1
                return
            hasty = False
            await asyncio.sleep(pause * rng.uniform(0.5, 1.0))
            pause = min(3.0, pause * 1.7)

    async def _withdraw(self, withdrawal: Withdrawal) -> None:
        rng, loop = random.Random(f"{self._seed}-{withdrawal}"), asyncio.get_running_loop()
        place = self._intake, f"/v1/items/{withdrawal.item_id}"
        facts = {"item_id": withdrawal.item_id}
        while True:
            status, _ = await self._client.call("withdraw", facts, place, b"", method="DELETE")
            self.tally.withdrawals[str(status or "no answer")] += 1
            late = loop.time() - self._started - withdrawal.at > _PATIENCE
            if late or (status is not None and status not in (429, 503)):
                return
            await asyncio.sleep(rng.uniform(0.3, 1.5))

    async def _complain(self, complaint: Complaint) -> None:
        rng, loop = random.Random(f"{self._seed}-{complaint.at}"), asyncio.get_running_loop()
        place, body = (self._intake, f"/v1/{complaint.kind}s"), complaint.body.encode()
        facts = {"body": msgspec.json.decode(body)}
        while True:
            status, _ = await self._client.call(complaint.kind, facts, place, body)
            self.tally.complaints[f"{complaint.kind} {status or 'no response'}"] += 1
            late = loop.time() - self._started - complaint.at > _PATIENCE
            if late or (status is not None and status not in (429, 503)):
                return
            await asyncio.sleep(rng.uniform(0.3, 1.5))

    async def _one(self, arrival: Arrival, timeout: float) -> tuple[int | None, Counter[str]]:
        facts = {"body": arrival.lines[0], "bad": [0] if arrival.bad else []}
        place = self._intake, "/v1/items"
        status, _ = await self._client.call("post", facts, place, arrival.lines[0].encode(), timeout=timeout)
        return status, Counter([str(status or "no answer")])

    async def _batch(self, arrival: Arrival, timeout: float) -> tuple[int | None, Counter[str]]:
        facts = {"lines": arrival.lines, "bad": arrival.bad}
        status, verdicts = await self._client.call(
            "batch",
            facts,
            (self._intake, "/v1/items/batch"),
            "\n".join(arrival.lines).encode(),
            media_type="application/x-ndjson",
            read=lambda answer: [msgspec.json.decode(line) for line in answer.content.splitlines()],
            timeout=timeout,
        )
        if status != 200:
            return status, Counter({str(status or "no answer"): len(arrival.lines)})
        counts = Counter(str(verdict["status"]) for verdict in verdicts)
        return (503 if counts.keys() & {"408", "429", "503"} else 200), counts


class Reviewer:
    """Claims waiting cases and mostly decides them; sometimes releases them, extends the lease, decides too late, or
    disappears."""

    def __init__(self, name: str, client: Client, *, port: int, region: str, tally: Tally, seed: int) -> None:
        self._name = name
        self._client = client
        self._port = port
        self._region = region
        self._tally = tally
        self._rng = random.Random(f"{name}-{region}-{seed}")
        self._claims = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`."""
        while not stop.is_set():
            await asyncio.sleep(self._rng.uniform(0.05, 0.3))
            claim = await self._claim(stop)
            if claim is not None:
                await self._review(claim, stop)

    async def _claim(self, stop: asyncio.Event) -> dict[str, Any] | None:
        self._claims += 1
        key = f'"{self._name}-{self._claims}"' if self._rng.random() < 0.7 else None
        facts = {
            "region": self._region,
            "reviewer": self._name,
            "team": "in_house",
            "key": key,
            "lease_seconds": LEASE_SECONDS,
        }
        body = _encode({name: facts[name] for name in ("reviewer", "team", "lease_seconds")})
        headers = {} if key is None else {"Idempotency-Key": key}
        for _ in range(4):
            status, claim = await self._client.call(
                "claim", facts, (self._port, "/v1/claims"), body, read=_claimed, timeout=8, headers=headers
            )
            self._tally.reviews[f"claim {status or 'no response'}"] += 1
            if status == 201:
                return dict(claim)
            if (status is not None and status != 503) or key is None or stop.is_set():
                break
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
        await asyncio.sleep(self._rng.uniform(0.2, 0.6))
        return None

    async def _review(self, claim: dict[str, Any], stop: asyncio.Event) -> None:
        case_id, token = claim["case_id"], claim["token"]
        act = self._rng.choices(("decide", "hold", "release", "late", "vanish"), weights=(70, 9, 7, 8, 6))[0]
        if act == "vanish":
            return
        if act == "release":
            await self._act("release", case_id, {"lease_token": token, "reason": "not mine"})
            return
        if act == "hold":
            for _ in range(self._rng.randint(1, 3)):
                await asyncio.sleep(self._rng.uniform(0.5, 2.0))
                await self._act("heartbeat", case_id, {"lease_token": token, "lease_seconds": LEASE_SECONDS})
        elif act == "late":
            await asyncio.sleep(LEASE_SECONDS + self._rng.uniform(0.4, 2.5))
        action = self._rng.choice(("uphold", "overturn") if claim["case_type"] == "appeal" else ("approve", "reject"))
        decision = {
            "lease_token": token,
            "action": action,
            "reasons": ["COUNTERFEIT"] if action in ("reject", "overturn") else [],
            "note": f"{self._name} {self._claims}",
        }
        for _ in range(5):
            status = await self._act("decide", case_id, decision)
            if (status is not None and status != 503) or stop.is_set():
                if status == 201 and self._rng.random() < 0.1:
                    await self._act("decide", case_id, decision)
                return
            await asyncio.sleep(self._rng.uniform(0.2, 1.5))

    async def _act(self, kind: str, case_id: str, body: dict[str, Any]) -> int | None:
        facts = {
            "region": self._region,
            "case_id": case_id,
            "token": body["lease_token"],
            "reviewer": self._name,
            **body,
        }
        path = {"decide": "decisions"}.get(kind, kind)
        place = self._port, f"/v1/cases/{case_id}/{path}"
        status, _ = await self._client.call(kind, facts, place, _encode(body), read=_held, timeout=8)
        self._tally.reviews[f"{kind} {status or 'no response'}"] += 1
        return status


def _claimed(answer: Answer) -> dict[str, Any]:
    result = answer.json()
    case, lease = result["case"], result["lease"]
    return {
        "case_id": case["case_id"],
        "case_type": case["case_type"],
        "token": lease["token"],
        "until": lease["until"],
    }


def _held(answer: Answer) -> dict[str, Any]:
    result = answer.json()
    if lease := result.get("lease"):
        return {"until": lease["until"]}
    return {"decision_id": result.get("decision_id", "")}


def _problem(answer: Answer) -> dict[str, Any]:
    try:
        result = answer.json() if answer.content else {}
    except ValueError:
        result = {"detail": answer.content[:200].decode(errors="replace")}
    return {name: result[name] for name in ("type", "detail") if name in result}
