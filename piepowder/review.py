"""Reviewers: a person at the terminal, or simulated ones who know the sample's truth.

Both hold one case at a time under a lease, keep it alive while they think, and give it back when they leave. What a
simulated reviewer does with a case depends on the case and the seed alone, not on who of them gets it or when.
"""

import asyncio
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from rich.rule import Rule
from rich.text import Text

from piepowder import listings, screen
from piepowder.client import Api, Refused
from piepowder.sample import truth_key
from shared.contracts import ids
from shared.contracts.envelope import subject_of
from shared.contracts.events import Policy
from shared.runtime.clock import SystemClock, from_text, to_text
from shared.runtime.retry import wait

LEASE_SECONDS: Final = 120
_IDLE_SECONDS: Final = 0.3
_COUNT_SECONDS: Final = 1.0
_RELEASED_SHARE: Final = 0.04
_WRONG_SHARE: Final = 0.02
_SUSPICIOUS: Final = 0.7
_clock = SystemClock()


class Held(msgspec.Struct, frozen=True):
    """A case and the lease on it, as `POST /v1/claims` answers."""

    case: dict[str, Any]
    lease: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.case["case_id"])

    @property
    def token(self) -> int:
        return int(self.lease["token"])


class Desk:
    """What a reviewer of a team does in a region."""

    def __init__(self, api: Api, region: str, reviewer: str, team: str, queues: Sequence[str] = ()) -> None:
        self.region = region
        self.reviewer = reviewer
        self._api = api
        self._team = team
        self._queues = list(queues)
        self._claims = 0
        self._run = ids.derive("claims", reviewer, str(os.getpid()), to_text(_clock.now()))

    async def claim(self) -> Held | None:
        """The most urgent case that waits, or None."""
        self._claims += 1
        wanted: dict[str, Any] = {"reviewer": self.reviewer, "team": self._team, "lease_seconds": LEASE_SECONDS}
        if self._queues:
            wanted["queues"] = self._queues
        answer = await self._api.post(self._service, "/v1/claims", wanted, key=f"{self._run}-{self._claims}")
        return None if answer.status_code == 204 else msgspec.convert(answer.json(), Held)

    async def heartbeat(self, held: Held) -> None:
        """Keep the lease alive; raises Refused when it is lost."""
        await self._post(held, "heartbeat", {"lease_seconds": LEASE_SECONDS})

    async def release(self, held: Held, reason: str) -> None:
        """Give the case back."""
        await self._post(held, "release", {"reason": reason})

    async def decide(self, held: Held, action: str, reasons: Sequence[str], note: str = "") -> None:
        """Decide the case; raises Refused when it is no longer this reviewer's."""
        body: dict[str, Any] = {"action": action, "reasons": list(reasons)}
        if note:
            body["note"] = note
        await self._post(held, "decisions", body)

    @property
    def _service(self) -> str:
        return f"decision-{self.region}"

    async def _post(self, held: Held, what: str, body: Mapping[str, Any]) -> None:
        lease = {"lease_token": held.token, "reviewer": self.reviewer}
        await self._api.post(self._service, f"/v1/cases/{held.id}/{what}", {**lease, **body})


class Simulation:
    """Simulated reviewers, `each` of them in each region, until `stop` or, once `finishing` is set, until no more than
    `leave` cases wait in their region. `done` counts region, action."""

    def __init__(
        self,
        api: Api,
        regions: Sequence[str],
        *,
        each: int,
        seed: int,
        truth: Mapping[str, str],
        leave: int = 0,
        queues: Sequence[str] = (),
        team: str = "in_house",
    ) -> None:
        self.done: Counter[tuple[str, str]] = Counter()
        self.finishing = asyncio.Event()
        self.stop = asyncio.Event()
        self._api = api
        self._regions = list(regions)
        self._each = each
        self._seed = seed
        self._truth = truth
        self._leave = leave
        self._queues = list(queues)
        self._team = team
        self._released: set[str] = set()
        self._waiting: dict[str, tuple[float, int]] = {}  # by region: when counted, how many

    async def run(self) -> None:
        """Work."""
        async with asyncio.TaskGroup() as group:
            for region in self._regions:
                for number in range(1, self._each + 1):
                    desk = Desk(self._api, region, f"sim-{region}-{number}", self._team, self._queues)
                    group.create_task(self._work(desk))

    async def _work(self, desk: Desk) -> None:
        while not self.stop.is_set():
            few = self._leave > 0 and await self._few_wait(desk.region)
            held = None if few else await desk.claim()
            if held is not None:
                await self._handle(desk, held)
            elif self.finishing.is_set():
                return
            else:
                await wait(self.stop, _IDLE_SECONDS)

    async def _few_wait(self, region: str) -> bool:
        """Whether no more than `leave` cases wait, by a count of a second ago less what was claimed since."""
        counted, waiting = self._waiting.get(region, (-_COUNT_SECONDS, 0))
        if waiting <= self._leave or _clock.monotonic() - counted > _COUNT_SECONDS:
            waiting = await self._count(region)
            counted = _clock.monotonic()
        self._waiting[region] = counted, waiting - 1
        return waiting <= self._leave

    async def _count(self, region: str) -> int:
        answer = await self._api.get(f"decision-{region}", "/v1/queues")
        queues = [queue for queue in answer["queues"] if not self._queues or queue["queue"] in self._queues]
        return sum(int(queue["waiting"]) for queue in queues)

    async def _handle(self, desk: Desk, held: Held) -> None:
        action, reasons = choose(held.case, self._truth, self._seed)
        pick = random.Random(f"{self._seed}:{held.id}:release")  # noqa: S311 - a simulation, not a secret
        try:
            if held.id not in self._released and pick.random() < _RELEASED_SHARE:
                self._released.add(held.id)
                await desk.release(held, "not my language")
                self.done[desk.region, "released"] += 1
            else:
                await desk.decide(held, action, reasons)
                self.done[desk.region, action] += 1
        except Refused as refused:
            if refused.status != 409:  # superseded meanwhile, or the lease ran out: somebody else's now
                raise
            self.done[desk.region, "lost"] += 1


async def simulate(
    api: Api,
    regions: Sequence[str],
    *,
    each: int,
    seed: int,
    truth: Mapping[str, str],
    queues: Sequence[str],
    team: str,
    seconds: float | None,
) -> Mapping[tuple[str, str], int]:
    """Let simulated reviewers work until nothing waits, or for `seconds`; what they did, by region and action."""
    crew = Simulation(api, regions, each=each, seed=seed, truth=truth, queues=queues, team=team)
    if seconds is None:
        crew.finishing.set()
    working = asyncio.create_task(crew.run())
    await asyncio.wait([working], timeout=seconds)
    crew.stop.set()
    await working
    return crew.done


async def by_hand(api: Api, region: str, reviewer: str, team: str, queues: Sequence[str]) -> Mapping[str, int]:
    """Let the person at the terminal work; how many of each action."""
    in_force = await api.get("router", "/v1/control")
    policies = {
        policy["id"]: msgspec.convert(policy, Policy) for policy in (in_force["policy_set"] or {}).get("policies", [])
    }
    person = Person(Desk(api, region, reviewer, team, queues), Keyboard(), policies)
    await person.work()
    return person.decided


def told(done: Mapping[tuple[str, str], int]) -> str:
    """What simulated reviewers did, in words."""
    return ", ".join(f"{region} {count:,} {action}" for (region, action), count in sorted(done.items())) or "no case"


def choose(case: Mapping[str, Any], truth: Mapping[str, str], seed: int) -> tuple[str, list[str]]:
    """What a simulated reviewer decides about a case, and the reasons: the truth where it is known, else by the looks
    of seller and scores; now and then wrong, as people are. An appeal is judged by what its item deserves."""
    pick = random.Random(f"{seed}:{case['case_id']}")  # noqa: S311 - a simulation, not a secret
    subject, item = subject_of(case["platform"], case["kind"], case["subject_id"]), judged(case)
    action = truth.get(truth_key(subject, item.get("version"))) or _by_looks(item, pick)
    if pick.random() < _WRONG_SHARE:
        action = "approve" if action == "reject" else "reject"
    reasons = usual_reasons(case) if action == "reject" else []
    if (contested := _contested(case)) is None:
        return action, reasons
    return ("uphold", []) if action == contested["action"] else ("overturn", reasons)


def judged(case: Mapping[str, Any]) -> Mapping[str, Any]:
    """The case whose item is to be looked at: a notice's and an appeal's is another one, if it is known."""
    if case.get("case_type", "item") == "item":
        return case
    return next((one for one in case.get("concerns") or [] if one["case_type"] == "item"), case)


def usual_reasons(case: Mapping[str, Any]) -> list[str]:
    """The reason codes that suggest themselves: a policy's, or the ground of the notice."""
    notices = (case.get("notice"), *(one.get("notice") for one in case.get("concerns") or []))
    grounds = [notice["ground"].upper() for notice in notices if notice]
    return list(case.get("reasons") or grounds[:1] or ["OTHER"])


def _contested(case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The decision that an appeal's case is about."""
    contested: Mapping[str, Any] | None = (case.get("appeal") or {}).get("decision")
    return contested


def _by_looks(case: Mapping[str, Any], pick: random.Random) -> str:
    item = case.get("item") or {}
    seller = item.get("seller") or {}
    bad_seller = (seller.get("rejected") or 0) > 0.3 * max(1, seller.get("listings") or 0)
    suspicious = max((item.get("scores") or {}).values(), default=0.0) > _SUSPICIOUS
    return "reject" if bad_seller or suspicious or pick.random() < 0.15 else "approve"


class Person:
    """A reviewer at the terminal: one letter and Enter decides. What is skipped is held, so that it does not come again
    at once, and given back at the end."""

    def __init__(self, desk: Desk, keyboard: "Keyboard", policies: Mapping[str, Policy]) -> None:
        self.decided: Counter[str] = Counter()
        self._desk = desk
        self._keyboard = keyboard
        self._policies = policies
        self._held: dict[str, tuple[Held, asyncio.Task[None]]] = {}

    async def work(self) -> None:
        """Case by case until `q`, the end of the input, or nothing waits."""
        try:
            while (held := await self._desk.claim()) is not None:
                self._held[held.id] = held, asyncio.create_task(self._keep(held))
                if not await self._decide(held):
                    return
            screen.say("Nothing waits.")
        finally:
            await asyncio.shield(self._give_back())

    async def _decide(self, held: Held) -> bool:
        """Show the case and follow the reviewer; whether to go on."""
        show_case(held.case, self._policies, _clock.now())
        contested = _contested(held.case)
        actions = {"a": "approve", "r": "reject"} if contested is None else {"u": "uphold", "o": "overturn"}
        prompt = "  ".join(f"[{letter}]{action[1:]}" for letter, action in actions.items())
        while True:
            answer = await self._keyboard.ask(f"{prompt}  [s]kip  [q]uit > ")
            letter = answer.strip().lower()[:1] if answer is not None else "q"
            if letter in actions:
                action, reasons = actions[letter], []
                if action == "reject" or (action == "overturn" and contested and contested["action"] == "approve"):
                    usual = usual_reasons(held.case)
                    given = await self._keyboard.ask(f"reason codes, Enter for {', '.join(usual)} > ")
                    if given is None:
                        return False
                    reasons = [code.upper() for code in given.replace(",", " ").split()] or usual
                if await self._settle(held, action, reasons):
                    return True
            elif letter == "s":
                self.decided["skipped"] += 1
                return True
            elif letter == "q":
                return False
            else:
                screen.say(f"{', '.join(actions)}, s or q, then Enter.")

    async def _settle(self, held: Held, action: str, reasons: list[str]) -> bool:
        """Decide; False when the decision itself did not fit and the reviewer has to choose again."""
        try:
            await self._desk.decide(held, action, reasons)
        except Refused as refused:
            screen.say(f"Not decided: {refused}", "red")
            if refused.status not in (409, 422):
                raise
            if refused.status == 422:
                return False
        else:
            self.decided[action] += 1
        self._held.pop(held.id)[1].cancel()
        return True

    async def _give_back(self) -> None:
        for held, keeping in self._held.values():
            keeping.cancel()
            try:
                await self._desk.release(held, "skipped")
            except Refused as refused:
                screen.say(f"Not given back: {refused}", "red")

    async def _keep(self, held: Held) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self._desk.heartbeat(held)
            except Refused as refused:
                screen.say(f"\nCase {held.id} is no longer yours: {refused}", "red")
                return


class Keyboard:
    """Lines from standard input, read by a thread of its own so that leases are kept alive meanwhile."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked: asyncio.Queue[str | None] = asyncio.Queue()

    async def ask(self, prompt: str) -> str | None:
        """The next line, None at the end of the input."""
        screen.console.print(Text(prompt, style="bold"), end="")
        threading.Thread(target=self._read, daemon=True).start()
        return await self._asked.get()

    def _read(self) -> None:
        line = sys.stdin.readline()
        self._loop.call_soon_threadsafe(self._asked.put_nowait, line or None)


def show_case(case: Mapping[str, Any], policies: Mapping[str, Policy], now: datetime) -> None:
    """Everything a reviewer needs to decide, on one screen; `policies` in force tell what a policy's id stands for."""
    item, trace = judged(case).get("item") or {}, case.get("trace") or {}
    seller, price = item.get("seller") or {}, item.get("price") or {}
    screen.console.print(Rule(Text(f"{case.get('queue')}  {case.get('case_id')}"), align="left"))
    shown: dict[str, object] = {
        **complaint(case),
        "subject": subject_of(case["platform"], case["kind"], case["subject_id"]),
        "title": Text(screen.clean(item.get("title", ""), 300), style="bold"),
        "text": screen.clean(item.get("text", ""), 1200),
        "brand": item.get("brand"),
        "category": item.get("category"),
        "price": screen.amount(price, listings.decimals(str(price.get("currency")))),
        "markets": ", ".join(item.get("markets") or []),
        "language": item.get("language"),
        "attributes": ", ".join(f"{name}: {value}" for name, value in (item.get("attributes") or {}).items()),
        "seller": ", ".join(f"{name} {value}" for name, value in seller.items()),
        "scores": ", ".join(f"{name} {value}" for name, value in (item.get("scores") or {}).items()),
        "why": "\n".join(_why(name, policies) for name in trace.get("matched") or []) or "no policy matched",
        "failed": "; ".join(f"{name}: {why}" for name, why in (trace.get("errors") or {}).items()),
        "reasons": ", ".join(case.get("reasons") or []),
        "due": due_in(str(case.get("due_at")), now),
    }
    kept = {
        name: value if isinstance(value, Text) else "\n".join(map(screen.clean, str(value).split("\n")))
        for name, value in shown.items()
        if value
    }
    screen.console.print(screen.facts(kept))


def complaint(case: Mapping[str, Any]) -> dict[str, object]:
    """What a notice or an appeal says, and what was decided about before."""
    shown: dict[str, object] = {}
    if appeal := case.get("appeal"):
        contested, by = appeal["decision"], appeal["appellant"]
        who = "a policy" if contested["automated"] else contested["reviewer"]
        reasons = f" for {', '.join(contested['reasons'])}" if contested.get("reasons") else ""
        shown |= {
            "appeal by": " ".join(filter(None, (by["kind"], by.get("name"), by.get("reference")))),
            "against": Text(screen.clean(f"{contested['action']}{reasons}, by {who}, at {contested['decided_at']}")),
            "appeal": Text(screen.clean(appeal["explanation"], 4000), style="bold"),
        }
    notices = (case.get("notice"), *(one.get("notice") for one in case.get("concerns") or []))
    if notice := next(filter(None, notices), None):
        by = notice["reporter"]
        shown |= {
            "notice by": " ".join(filter(None, (by["kind"], by.get("name"), by.get("reference")))),
            "ground": notice["ground"],
            "notice": Text(screen.clean(notice["explanation"], 4000), style="bold"),
            "where": "\n".join(notice["locations"]),
        }
    before = [decision for one in case.get("concerns") or [] for decision in one["decisions"]]
    shown["decided"] = "\n".join(f"{one['action']} at {one['decided_at']}" for one in before)
    return shown


def _why(name: str, policies: Mapping[str, Policy]) -> str:
    policy = policies.get(name)
    return name if policy is None else f"{name}: {policy.title} ({' and '.join(policy.when)})"


def due_in(due_at: str, now: datetime) -> str:
    """How long until a time (RFC 3339), in words."""
    minutes = int((from_text(due_at) - now).total_seconds() // 60)
    size = f"{abs(minutes) // 60} h {abs(minutes) % 60} min" if abs(minutes) >= 60 else f"{abs(minutes)} min"
    return f"in {size}" if minutes >= 0 else f"{size} ago: OVERDUE"
