"""Review by a person at the terminal: one case at a time, under a lease that is extended while the reviewer reads.

A decision needs the exact letter and Enter, and a rejection also its reasons and a confirmation, so no single key
decides a case. `q`, Esc or an empty line cancels every question. The lease ends when the reviewer skips the case or
quits; a skipped case is not claimed again in the same run.
"""

import asyncio
import os
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from piepowder import case_display, console_output
from piepowder.case_display import EARLIER_SHOWN, DecidedCases, Rules, contested_decision
from piepowder.client import Api, ApiError
from piepowder.line_input import ESC, LineInput, line_input
from shared.contracts import ids
from shared.contracts.events import Policy
from shared.runtime.clock import Clock, SystemClock, to_text
from shared.runtime.user_errors import UserError

LEASE_SECONDS: Final = 120
MAX_SKIPPED: Final = 1_000  # of a claim
_LONGEST_NOTE: Final = 5_000
_MAX_REASONS: Final = 20
_FIELD_LINES: Final = 12  # of a long text on the screen
_CANCEL: Final = ("", "q", "Q", ESC)
_PAST: Final = {"approve": "Approved", "reject": "Rejected", "uphold": "Upheld", "overturn": "Overturned"}
_LOST: Final = frozenset(
    {
        "lease-expired",
        "lease-released",
        "wrong-lease-token",
        "lost-in-restore",
        "superseded",
        "withdrawn",
        "closed",
        "already-decided",
    }
)
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


class ValidReasons(msgspec.Struct, frozen=True):
    """The reason codes that a decision may have now, each with its titles."""

    titles: Mapping[str, Sequence[str]] = {}

    def unknown(self, codes: Sequence[str]) -> list[str]:
        """Those of `codes` that are not valid."""
        return [code for code in codes if code not in self.titles]


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

    async def claim(self, *, skipped: Sequence[str] = (), only: Sequence[str] = ()) -> LeasedCase | None:
        """Claim the most urgent case that is none of `skipped` and, if given, one of `only`; None if none waits."""
        self._claims += 1
        wanted: dict[str, Any] = {"reviewer": self.reviewer, "team": self._team, "lease_seconds": LEASE_SECONDS}
        options = {"queues": self._queues, "skipped_cases": list(skipped), "only_cases": list(only)}
        wanted |= {name: value for name, value in options.items() if value}
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

    async def reason_codes(self) -> ValidReasons:
        """The reason codes that are valid now."""
        found = await self._api.get(self._service, "/v1/reasons")
        return ValidReasons({reason["code"]: reason["titles"] for reason in found["reasons"]})

    async def earlier(self, case: Mapping[str, Any]) -> DecidedCases:
        """The latest decided cases of the case's subject."""
        subject = {name: str(case[name]) for name in ("platform", "kind", "subject_id")}
        try:
            found = await self._api.get(self._service, "/v1/decisions", **subject, limit=EARLIER_SHOWN)
        except ApiError as error:
            return DecidedCases(problem=str(error))
        return DecidedCases(found["cases"], found["next"] is not None)

    async def waiting(self) -> int | None:
        """The number of waiting cases in the reviewer's queues; None if the key may not read it."""
        try:
            found = await self._api.get(self._service, "/v1/queues")
        except ApiError:
            return None
        queues = [queue for queue in found["queues"] if not self._queues or queue["queue"] in self._queues]
        return sum(int(queue["waiting"]) for queue in queues)

    @property
    def _service(self) -> str:
        return f"decision-{self.region}"

    async def _post(self, leased: LeasedCase, operation: str, body: Mapping[str, Any]) -> None:
        lease = {"lease_token": leased.token, "reviewer": self.reviewer}
        await self._api.post(self._service, f"/v1/cases/{leased.id}/{operation}", {**lease, **body})


async def by_hand(
    api: Api, region: str, reviewer: str, team: str, queues: Sequence[str], *, confirm: bool = False
) -> Mapping[str, int]:
    """Run a review at the terminal; return the number of cases by outcome. `confirm`: ask before each decision."""
    session = ReviewSession(api, region, reviewer, team, queues)
    person = TerminalReviewer(session, line_input(), await _rules(api), confirm=confirm)
    try:
        await person.work()
    finally:
        person.show_summary()
    return person.done


async def _rules(api: Api) -> Rules:
    """The policies in force; none if the deployment's profile or the key does not allow to read them."""
    try:
        published = (await api.get("router", "/v1/control"))["policy_set"]
    except UserError as error:
        console_output.warn(f"{error} The titles and conditions of policies are not shown.")
        return Rules()
    if published is None:
        return Rules()
    return Rules(published["id"], {one["id"]: msgspec.convert(one, Policy) for one in published["policies"]})


def suggested_reasons(case: Mapping[str, Any], codes: ValidReasons) -> list[str]:
    """The default reason codes: the valid ones of the case's own, else the ground of the notice, else OTHER."""
    own = [code for code in case.get("reasons") or [] if code in codes.titles]
    notices = (case.get("notice"), *(one.get("notice") for one in case.get("concerns") or []))
    grounds = [notice["ground"].upper() for notice in notices if notice]
    return own or [code for code in grounds[:1] if code in codes.titles] or ["OTHER"]


class TerminalReviewer:
    """A person at the terminal, who decides one case at a time. `done` counts the cases by outcome.

    `confirm`: ask for a confirmation before each decision, not only before one that restricts an item.
    """

    def __init__(
        self,
        session: ReviewSession,
        lines: LineInput,
        rules: Rules,
        *,
        confirm: bool = False,
        clock: Clock = _clock,
    ) -> None:
        self.done: Counter[str] = Counter()
        self._session = session
        self._lines = lines
        self._rules = rules
        self._confirm = confirm
        self._clock = clock
        self._began = clock.monotonic()
        self._skipped: deque[str] = deque(maxlen=MAX_SKIPPED)

    async def work(self) -> None:
        """Review until `q`, the end of the input, or no other case waits. Raises KeyboardInterrupt for Ctrl-C."""
        while (leased := await self._session.claim(skipped=self._skipped)) is not None:
            review = _CaseReview(leased, self._session, self._clock)
            try:
                if not await self._review(review):
                    return
            finally:
                await asyncio.shield(review.end())
        skipped = f" except the {len(self._skipped)} that you skipped" if self._skipped else ""
        console_output.show(f"No case waits{skipped}.")

    def show_summary(self) -> None:
        """Show the number of cases by outcome, and the pace."""
        actions = {action: n for action, n in sorted(self.done.items()) if action in _PAST}
        decided = sum(actions.values())
        seconds = self._clock.monotonic() - self._began
        pace = f", {_duration(seconds / decided)} for each" if decided else ""
        counts = ", ".join(f"{n} {action}" for action, n in actions.items()) or "no case"
        others = "".join(f" {self.done[what]} {what}." for what in ("skipped", "lost") if self.done[what])
        console_output.show(f"You decided {decided} in {_duration(seconds)}{pace}: {counts}.{others}")

    async def _review(self, review: "_CaseReview") -> bool:
        """Show the case and execute the reviewer's entries until it is done; False ends the review."""
        case = review.leased.case
        await self._show_progress()
        earlier = await self._session.earlier(case)
        self._show_case(case, earlier, lines=_FIELD_LINES if console_output.console.is_terminal else None)
        letters = {"a": "approve", "r": "reject"}
        if contested_decision(case) is not None:
            letters = {"u": "uphold", "o": "overturn"}
        for action in letters.values():
            console_output.show(f"  {action}: {case_display.effect(case, action)}", "dim")
        shown = [f"[{letter}]{action[1:]}" for letter, action in letters.items()]
        prompt = "  ".join([*shown, "[n]ote", "[v]iew", "[s]kip", "[q]uit"]) + " > "
        self._lines.discard_typed()
        note = ""
        while True:
            entered = await self._lines.ask(prompt)
            if entered is None or entered == "q":
                return False
            if review.lost:
                console_output.show(f"Nothing was sent: {review.lost}", "red")
                self.done["lost"] += 1
                return True
            if entered in letters:
                done = await self._decide(review, letters[entered], note)
                if done is not None:
                    return done
            elif entered == "s":
                await self._skip(review)
                return True
            elif entered == "n":
                note = await self._ask_note(note)
            elif entered == "v":
                await asyncio.to_thread(self._page, case, earlier)
            elif entered not in _CANCEL:
                console_output.show(f"Nothing was done: enter {', '.join(letters)}, n, v, s or q, then Enter.")

    async def _decide(self, review: "_CaseReview", action: str, note: str) -> bool | None:
        """Ask for what the action needs, and send it. True when the case is done, False at the end of the input, None
        when the reviewer has to choose again."""
        case, reasons = review.leased.case, list[str]()
        if case_display.rejects(case, action):
            asked = await self._ask_reasons(case)
            if not asked:
                return _cancelled(asked is None)
            reasons = asked
        what = f"{action} {_named(case)}" + (f" for {', '.join(reasons)}" if reasons else "")
        what += f", note “{console_output.clean(note, 200)}”" if note else ""
        if reasons or self._confirm:
            console_output.show(f"{what[0].upper()}{what[1:]}: {case_display.effect(case, action)}.", "bold")
            answer = await self._lines.ask("y and Enter to send it > ")
            if answer != "y":
                return _cancelled(answer is None)
        return await self._send(review, action, reasons, note)

    async def _send(self, review: "_CaseReview", action: str, reasons: Sequence[str], note: str) -> bool | None:
        try:
            await self._session.decide(review.leased, action, reasons, note)
        except ApiError as error:
            if error.status not in (409, 422):
                raise
            console_output.show(f"Not decided: {error}", "red")
            if error.slug not in _LOST:
                return None  # still leased: another action, a skip or other reasons are possible
            review.lease_ended()
            self.done["lost"] += 1
            return True
        review.lease_ended()
        self.done[action] += 1
        reason = f" for {', '.join(reasons)}" if reasons else ""
        console_output.show(f"{_PAST[action]} {_named(review.leased.case)}{reason}.", "green")
        return True

    async def _ask_reasons(self, case: Mapping[str, Any]) -> list[str] | None:
        """The reason codes that the reviewer enters; empty if cancelled, None at the end of the input."""
        try:
            codes = await self._session.reason_codes()
        except ApiError as error:
            console_output.show(f"The valid reason codes cannot be read: {error}", "red")
            return []
        suggested = suggested_reasons(case, codes)
        prompt = f"reason codes, + for {' '.join(suggested)}, ? for a list, q to cancel > "
        while True:
            entered = await self._lines.ask(prompt)
            if entered is None:
                return None
            if entered.strip() in _CANCEL:
                return []
            if entered.strip() == "?":
                _show_codes(codes)
                continue
            given = suggested if entered.strip() == "+" else entered.replace(",", " ").upper().split()
            reasons = list(dict.fromkeys(given))
            if unknown := codes.unknown(reasons):
                names = console_output.clean(", ".join(unknown), 300)
                console_output.show(f"Nothing was sent: there is no reason code {names}. The valid ones:", "red")
                _show_codes(codes)
            elif len(reasons) > _MAX_REASONS:
                console_output.show(f"Nothing was sent: a decision has at most {_MAX_REASONS} reason codes.", "red")
            elif reasons:
                return reasons

    async def _ask_note(self, note: str) -> str:
        """The note for the next decision; the present one if cancelled."""
        entered = await self._lines.ask("note for the decision, q to cancel > ")
        text = "" if entered is None else entered.strip()
        if text in _CANCEL:
            console_output.show(f"The note is unchanged: {console_output.clean(note, 200) or 'none'}.")
            return note
        problem = f"is longer than {_LONGEST_NOTE} characters" if len(text) > _LONGEST_NOTE else ""
        if "\0" in text or ESC in text:
            problem = "contains a control character"
        if problem:
            console_output.show(f"The note is unchanged, because the new one {problem}.", "red")
            return note
        console_output.show(f"The decision will have the note “{console_output.clean(text, 200)}”.")
        return text

    async def _skip(self, review: "_CaseReview") -> None:
        self._skipped.append(review.leased.id)
        self.done["skipped"] += 1
        await review.end("skipped")
        console_output.show(f"Skipped {_named(review.leased.case)}: it waits in its queue for another reviewer.")

    async def _show_progress(self) -> None:
        waiting, decided = await self._session.waiting(), sum(self.done[action] for action in _PAST)
        parts = [f"{decided} decided"]
        parts += [f"{self.done[what]} {what}" for what in ("skipped", "lost") if self.done[what]]
        if decided:
            parts.append(f"{_duration((self._clock.monotonic() - self._began) / decided)} for each")
        if waiting is not None:
            parts.append(f"{waiting:,} more wait")
        console_output.show()
        console_output.show(" · ".join(parts), "dim")

    def _show_case(self, case: Mapping[str, Any], earlier: DecidedCases, *, lines: int | None) -> None:
        shown, _ = case_display.case_display(case, self._rules, earlier, self._clock.now(), lines=lines)
        console_output.console.print(shown)

    def _page(self, case: Mapping[str, Any], earlier: DecidedCases) -> None:
        """Show the whole case, in a pager on a terminal."""
        if not console_output.console.is_terminal:
            self._show_case(case, earlier, lines=None)
            return
        with console_output.console.pager():
            self._show_case(case, earlier, lines=None)


class _CaseReview:
    """A leased case under review: extends the lease until it ends. `lost` is the reason why the lease is lost."""

    def __init__(self, leased: LeasedCase, session: ReviewSession, clock: Clock) -> None:
        self.leased = leased
        self.lost = ""
        self._session = session
        self._clock = clock
        self._held = True
        self._extending = asyncio.create_task(self._extend())

    def lease_ended(self) -> None:
        """Note that the lease has ended, by a decision or otherwise."""
        self._held = False
        self._extending.cancel()

    async def end(self, reason: str = "not decided") -> None:
        """Release the case, unless its lease has ended."""
        if not self._held or self.lost:
            self._extending.cancel()
            return
        self.lease_ended()
        try:
            await self._session.release(self.leased, reason)
        except UserError as error:
            console_output.show(f"Not released: {error}", "red")

    async def _extend(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self._session.heartbeat(self.leased)
            except ApiError as error:
                self.lost = f"case {self.leased.id} is no longer yours: {error}"
                console_output.show(f"\nCase {self.leased.id} is no longer yours: {error}", "red")
                return
            except UserError as error:  # the service does not respond; the lease may still run
                console_output.show(f"\nThe lease was not extended: {error}", "red")


def _cancelled(is_end: bool) -> bool | None:
    """The outcome of a cancelled action: another choice, or the end of the review."""
    console_output.show("Cancelled: nothing was sent.")
    return False if is_end else None


def _show_codes(codes: ValidReasons) -> None:
    table = console_output.table("reason code", "title")
    for code, titles in codes.titles.items():
        table.add_row(code, console_output.clean("; ".join(titles), 300))
    console_output.console.print(table)


def _named(case: Mapping[str, Any]) -> str:
    """The subject and the title of a case, on one line."""
    title = console_output.clean((case_display.item_case(case).get("item") or {}).get("title", ""), 60)
    kind = case.get("case_type", "item")
    about = "" if kind == "item" else f"the {kind} about "
    return f"{about}{case_display.subject(case)}" + (f" “{title}”" if title else "")


def _duration(seconds: float) -> str:
    """A duration as text."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
