"""Review by a person at the terminal: one case at a time, under a lease that is extended while the reviewer reads and
released at the end."""

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from rich.rule import Rule
from rich.text import Text

from piepowder import console_output
from piepowder.client import Api, ApiError
from piepowder.imports import currencies
from shared.contracts import ids
from shared.contracts.envelope import subject_of
from shared.contracts.events import Policy
from shared.runtime.clock import SystemClock, from_text, to_text

LEASE_SECONDS: Final = 120
_clock = SystemClock()


class LeasedCase(msgspec.Struct, frozen=True):
    """A case and its lease, as `POST /v1/claims` returns them."""

    case: dict[str, Any]
    lease: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.case["case_id"])

    @property
    def token(self) -> int:
        return int(self.lease["token"])


class ReviewSession:
    """The review API of a region, for one reviewer."""

    def __init__(self, api: Api, region: str, reviewer: str, team: str, queues: Sequence[str] = ()) -> None:
        self.region = region
        self.reviewer = reviewer
        self._api = api
        self._team = team
        self._queues = list(queues)
        self._claims = 0
        self._run = ids.derive("claims", reviewer, str(os.getpid()), to_text(_clock.now()))

    async def claim(self) -> LeasedCase | None:
        """Claim the most urgent case; None if no case waits."""
        self._claims += 1
        wanted: dict[str, Any] = {"reviewer": self.reviewer, "team": self._team, "lease_seconds": LEASE_SECONDS}
        if self._queues:
            wanted["queues"] = self._queues
        claim = await self._api.post(self._service, "/v1/claims", wanted, key=f"{self._run}-{self._claims}")
        return None if claim is None else msgspec.convert(claim, LeasedCase)

    async def heartbeat(self, leased: LeasedCase) -> None:
        """Extend the lease; raises `ApiError` when it is lost."""
        await self._post(leased, "heartbeat", {"lease_seconds": LEASE_SECONDS})

    async def release(self, leased: LeasedCase, reason: str) -> None:
        """Release the case."""
        await self._post(leased, "release", {"reason": reason})

    async def decide(self, leased: LeasedCase, action: str, reasons: Sequence[str], note: str = "") -> None:
        """Decide the case; raises `ApiError` when this reviewer no longer holds it."""
        body: dict[str, Any] = {"action": action, "reasons": list(reasons)}
        if note:
            body["note"] = note
        await self._post(leased, "decisions", body)

    @property
    def _service(self) -> str:
        return f"decision-{self.region}"

    async def _post(self, leased: LeasedCase, operation: str, body: Mapping[str, Any]) -> None:
        lease = {"lease_token": leased.token, "reviewer": self.reviewer}
        await self._api.post(self._service, f"/v1/cases/{leased.id}/{operation}", {**lease, **body})


async def by_hand(api: Api, region: str, reviewer: str, team: str, queues: Sequence[str]) -> Mapping[str, int]:
    """Run a review at the terminal; return the number of cases by action."""
    in_force = await api.get("router", "/v1/control")
    policies = {
        policy["id"]: msgspec.convert(policy, Policy) for policy in (in_force["policy_set"] or {}).get("policies", [])
    }
    person = TerminalReviewer(ReviewSession(api, region, reviewer, team, queues), Keyboard(), policies)
    await person.work()
    return person.decided


def item_case(case: Mapping[str, Any]) -> Mapping[str, Any]:
    """The case with the item: for a notice or an appeal, the item's case that it concerns, if that is known."""
    if case.get("case_type", "item") == "item":
        return case
    return next((one for one in case.get("concerns") or [] if one["case_type"] == "item"), case)


def suggested_reasons(case: Mapping[str, Any]) -> list[str]:
    """The default reason codes: the case's own, else the ground of the notice, else OTHER."""
    notices = (case.get("notice"), *(one.get("notice") for one in case.get("concerns") or []))
    grounds = [notice["ground"].upper() for notice in notices if notice]
    return list(case.get("reasons") or grounds[:1] or ["OTHER"])


def contested_decision(case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The decision that an appeal contests; None for other cases."""
    contested: Mapping[str, Any] | None = (case.get("appeal") or {}).get("decision")
    return contested


class TerminalReviewer:
    """A person at the terminal: a letter (or the whole word) and Enter decides a case.

    A skipped case stays leased, so that the next claim does not return it, and is released at the end.
    """

    def __init__(self, session: ReviewSession, keyboard: "Keyboard", policies: Mapping[str, Policy]) -> None:
        self.decided: Counter[str] = Counter()
        self._session = session
        self._keyboard = keyboard
        self._policies = policies
        self._leased: dict[str, tuple[LeasedCase, asyncio.Task[None]]] = {}

    async def work(self) -> None:
        """Review until `q`, the end of the input, or no case waits."""
        try:
            while (leased := await self._session.claim()) is not None:
                self._leased[leased.id] = leased, asyncio.create_task(self._extend(leased))
                if not await self._decide(leased):
                    return
            console_output.show("No case waits.")
        finally:
            await asyncio.shield(self._release_all())

    async def _decide(self, leased: LeasedCase) -> bool:
        """Show the case and execute the reviewer's entry; False ends the review."""
        show_case(leased.case, self._policies, _clock.now())
        contested = contested_decision(leased.case)
        actions = {"a": "approve", "r": "reject"} if contested is None else {"u": "uphold", "o": "overturn"}
        prompt = "  ".join(f"[{letter}]{action[1:]}" for letter, action in actions.items())
        while True:
            response = await self._keyboard.ask(f"{prompt}  [s]kip  [q]uit > ")
            entered = response.strip().lower() if response is not None else "q"
            # only a letter or a whole word: a reason code that is entered too early must not decide the case
            words = {**actions, "s": "skip", "q": "quit"}
            letter = next((letter for letter, word in words.items() if entered in (letter, word)), "")
            if letter in actions:
                action, reasons = actions[letter], []
                if action == "reject" or (action == "overturn" and contested and contested["action"] == "approve"):
                    suggested = suggested_reasons(leased.case)
                    given = await self._keyboard.ask(f"reason codes, Enter for {', '.join(suggested)} > ")
                    if given is None:
                        return False
                    reasons = [code.upper() for code in given.replace(",", " ").split()] or suggested
                if await self._settle(leased, action, reasons):
                    return True
            elif letter == "s":
                self.decided["skipped"] += 1
                return True
            elif letter == "q":
                return False
            else:
                console_output.show(f"{', '.join(actions)}, s or q, then Enter.")

    async def _settle(self, leased: LeasedCase, action: str, reasons: list[str]) -> bool:
        """Send the decision; False when it was invalid and the reviewer has to choose again."""
        try:
            await self._session.decide(leased, action, reasons)
        except ApiError as error:
            console_output.show(f"Not decided: {error}", "red")
            if error.status not in (409, 422):
                raise
            if error.status == 422:
                return False
        else:
            self.decided[action] += 1
        self._leased.pop(leased.id)[1].cancel()
        return True

    async def _release_all(self) -> None:
        for leased, extending in self._leased.values():
            extending.cancel()
            try:
                await self._session.release(leased, "skipped")
            except ApiError as error:
                console_output.show(f"Not released: {error}", "red")

    async def _extend(self, leased: LeasedCase) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self._session.heartbeat(leased)
            except ApiError as error:
                console_output.show(f"\nCase {leased.id} is no longer yours: {error}", "red")
                return


class Keyboard:
    """Lines of standard input, read in another thread, so that leases can be extended meanwhile."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()

    async def ask(self, prompt: str) -> str | None:
        """The next line; None at the end of the input."""
        console_output.console.print(Text(prompt, style="bold"), end="")
        threading.Thread(target=self._read, daemon=True).start()
        return await self._lines.get()

    def _read(self) -> None:
        line = sys.stdin.readline()
        self._loop.call_soon_threadsafe(self._lines.put_nowait, line or None)


def show_case(case: Mapping[str, Any], policies: Mapping[str, Policy], now: datetime) -> None:
    """Show everything that a reviewer needs, on one screen; `policies` are those in force, by id."""
    item, trace = item_case(case).get("item") or {}, case.get("trace") or {}
    seller, price = item.get("seller") or {}, item.get("price") or {}
    console_output.console.print(Rule(Text(f"{case.get('queue')}  {case.get('case_id')}"), align="left"))
    shown: dict[str, object] = {
        **complaint(case),
        "subject": subject_of(case["platform"], case["kind"], case["subject_id"]),
        "title": Text(console_output.clean(item.get("title", ""), 300), style="bold"),
        "text": console_output.clean(item.get("text", ""), 1200),
        "brand": item.get("brand"),
        "category": item.get("category"),
        "price": console_output.price(price, currencies.decimals(str(price.get("currency")))),
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
        name: value if isinstance(value, Text) else "\n".join(map(console_output.clean, str(value).split("\n")))
        for name, value in shown.items()
        if value
    }
    console_output.console.print(console_output.fields(kept))


def complaint(case: Mapping[str, Any]) -> dict[str, object]:
    """The texts of a notice or an appeal, and the earlier decisions of the cases that it concerns."""
    shown: dict[str, object] = {}
    if appeal := case.get("appeal"):
        contested, by = appeal["decision"], appeal["appellant"]
        who = "a policy" if contested["automated"] else contested["reviewer"]
        reasons = f" for {', '.join(contested['reasons'])}" if contested.get("reasons") else ""
        shown |= {
            "appeal by": " ".join(filter(None, (by["kind"], by.get("name"), by.get("reference")))),
            "against": Text(
                console_output.clean(f"{contested['action']}{reasons}, by {who}, at {contested['decided_at']}")
            ),
            "appeal": Text(console_output.clean(appeal["explanation"], 4000), style="bold"),
        }
    notices = (case.get("notice"), *(one.get("notice") for one in case.get("concerns") or []))
    if notice := next(filter(None, notices), None):
        by = notice["reporter"]
        shown |= {
            "notice by": " ".join(filter(None, (by["kind"], by.get("name"), by.get("reference")))),
            "ground": notice["ground"],
            "notice": Text(console_output.clean(notice["explanation"], 4000), style="bold"),
            "where": "\n".join(notice["locations"]),
        }
    before = [decision for one in case.get("concerns") or [] for decision in one["decisions"]]
    shown["decided"] = "\n".join(f"{one['action']} at {one['decided_at']}" for one in before)
    return shown


def _why(name: str, policies: Mapping[str, Policy]) -> str:
    policy = policies.get(name)
    return name if policy is None else f"{name}: {policy.title} ({' and '.join(policy.when)})"


def due_in(due_at: str, now: datetime) -> str:
    """The time until `due_at` (RFC 3339) as text."""
    minutes = int((from_text(due_at) - now).total_seconds() // 60)
    size = f"{abs(minutes) // 60} h {abs(minutes) % 60} min" if abs(minutes) >= 60 else f"{abs(minutes)} min"
    return f"in {size}" if minutes >= 0 else f"{size} ago: OVERDUE"
