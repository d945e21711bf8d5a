"""Review by a person at the terminal: one case at a time, under a lease that is extended while the reviewer reads.

A decision needs the exact letter and Enter, and a rejection also its reasons and a confirmation, so no single key
decides a case. At the prompt of a case, `q` ends the review, and an empty line or Esc does nothing; at every other
prompt, `q`, Esc or an empty line cancels. The lease ends when the reviewer skips the case or quits; a skipped case is
not claimed again in the same run.
"""

import asyncio
import signal
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, Final, NamedTuple

import msgspec

from piepowder import case_display, console_output
from piepowder.case_display import DecidedCases, Rules, contested_decision
from piepowder.client import Api, ApiError
from piepowder.line_input import ESC, LineInput, line_input
from piepowder.review_session import (
    LEASE_ENDED,
    LEASE_SECONDS,
    LONGEST_NOTE,
    MAX_REASONS,
    MAX_SKIPPED,
    LeasedCase,
    ReviewSession,
    ValidReasons,
    suggested_reasons,
)
from shared.contracts.events import Policy
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.user_errors import UserError

_FIELD_LINES: Final = 12  # of a long text on the screen
_CANCEL: Final = ("", "q", "Q", ESC)  # Q, too: it must not become a note or a reason code
_PAST: Final = {
    "approve": "approved",
    "reject": "rejected",
    "dismiss": "dismissed",
    "follow": "followed",
    "uphold": "upheld",
    "overturn": "overturned",
}
_OF_A_NOTICE: Final = {"approve": "dismiss", "reject": "follow"}
_KEYS: Final = {"n": "note", "v": "view", "s": "skip", "q": "quit"}  # besides the actions of the case
_clock = SystemClock()


async def by_hand(
    api: Api, region: str, reviewer: str, team: str, queues: Sequence[str], *, confirm: bool = False
) -> Mapping[str, int]:
    """Run a review at the terminal; return the number of cases by outcome. `confirm`: ask before each decision."""
    session = ReviewSession(api, region, reviewer, team, queues)
    person = TerminalReviewer(session, line_input(), await _rules(api), confirm=confirm)
    try:
        await person.work()
    finally:
        if person.has_begun:
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


class _Next(Enum):
    """The next step after an entry of the reviewer."""

    CHOICE = auto()  # another choice for the same case
    CASE = auto()
    END = auto()  # of the review


class TerminalReviewer:
    """A person at the terminal, who decides one case at a time. `done` counts the cases by outcome; `has_begun` is True
    after the first claim.

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
        self.has_begun = False  # a claim was answered
        self._skipped: deque[str] = deque(maxlen=MAX_SKIPPED)

    async def work(self) -> None:
        """Review until `q`, the end of the input, or no other case waits. Raises KeyboardInterrupt for Ctrl-C."""
        while (leased := await self._session.claim(skipped=self._skipped)) is not None:
            self.has_begun = True
            review = _CaseReview(leased, self._session, self._clock)
            try:
                if await self._review(review) is _Next.END:
                    return
            finally:
                await asyncio.shield(self._end(review))
        await self._show_end()

    def show_summary(self) -> None:
        """Show the number of cases by outcome, and the pace."""
        actions = {action: n for action, n in sorted(self.done.items()) if action in _PAST}
        decided = sum(actions.values())
        seconds = self._clock.monotonic() - self._began
        pace = f", {_duration(seconds / decided)} for each" if decided else ""
        counts = ", ".join(f"{n} {_PAST[verb]}" for verb, n in actions.items()) or "no case"
        others = "".join(f" {self.done[what]} {what}." for what in ("skipped", "lost") if self.done[what])
        console_output.show(f"You decided {decided} in {_duration(seconds)}{pace}: {counts}.{others}")

    async def _end(self, review: "_CaseReview") -> None:
        """Release the case, unless its lease has ended; find out whether a decision without a response was made."""
        sent = review.sent
        if await review.end() and sent is not None:
            self.done[sent.verb] += 1
            console_output.show(f"{sent.done} The response was lost, but the decision is recorded.", "green")

    async def _show_end(self) -> None:
        waiting, skipped = await self._session.waiting(), len(self._skipped)
        what = f"No case waits except the {skipped} that you skipped" if skipped else "No case waits"
        if waiting is None or waiting <= skipped:
            console_output.show(f"{what}.")
            return
        others = waiting - skipped
        console_output.show(
            f"{what}, and {others:,} that you may not decide, such as appeals against your own decisions."
            if skipped
            else f"No case waits that you may decide. {others:,} wait for other reviewers, such as appeals against your"
            " own decisions."
        )

    async def _review(self, review: "_CaseReview") -> _Next:
        """Show the case and execute the reviewer's entries until it is done, or the review ends."""
        case = review.leased.case
        await self._show_progress()
        earlier = await self._session.earlier(case)
        self._show_case(case, earlier, lines=_FIELD_LINES if console_output.console.is_terminal else None)
        actions = {"a": "approve", "r": "reject"}
        if contested_decision(case) is not None:
            actions = {"u": "uphold", "o": "overturn"}
        for action in actions.values():
            named = action if (verb := _verb(case, action)) == action else f"{action} ({verb} the notice)"
            console_output.show(f"  {named}: {case_display.effect(case, action)}", "dim")
        keys = actions | _KEYS
        prompt = "  ".join(f"[{key}]{word[1:]}" for key, word in keys.items()) + " > "
        self._lines.discard_typed()
        note = ""
        while True:
            entered = await self._lines.ask(prompt)
            if entered is None or entered == "q":
                return _Next.END
            if review.lost:
                console_output.show(f"Nothing was sent: {review.lost}", "red")
                self.done["lost"] += 1
                return _Next.CASE
            if entered in actions:
                following = await self._decide(review, actions[entered], note)
                if following is not _Next.CHOICE:
                    return following
            elif entered == "s":
                await self._skip(review)
                return _Next.CASE
            elif entered == "n":
                note = await self._ask_note(note)
            elif entered == "v":
                with _interrupts_ignored():
                    await asyncio.to_thread(self._page, case, earlier)
                self._lines.discard_typed()  # keys of the pager
            elif entered not in _CANCEL:
                *others, last = keys
                console_output.show(f"Nothing was done: enter {', '.join(others)} or {last}, then Enter.")

    async def _decide(self, review: "_CaseReview", action: str, note: str) -> _Next:
        """Ask for what the action needs, and send it."""
        case, reasons = review.leased.case, list[str]()
        if case_display.rejects(case, action):
            asked = await self._ask_reasons(case)
            if not asked:
                return self._cancelled(asked is None)
            reasons = asked
        if reasons or self._confirm or case.get("case_type", "item") != "item":
            with_note = f", note “{console_output.clean(note, 200)}”" if note else ""
            what = f"{_verb(case, action).capitalize()} {_object(case, reasons)}{with_note}"
            console_output.show(f"{what}: {case_display.effect(case, action)}.", "bold")
            answer = await self._lines.ask("y and Enter to send it > ")
            if answer != "y":
                return self._cancelled(answer is None)
        return await self._send(review, action, reasons, note)

    def _cancelled(self, is_end: bool) -> _Next:
        """Show that the action is cancelled; `is_end`: by the end of the input."""
        console_output.show("Cancelled: nothing was sent.")
        self._lines.discard_typed()  # what was typed for the cancelled action is no answer to the next prompt
        return _Next.END if is_end else _Next.CHOICE

    async def _send(self, review: "_CaseReview", action: str, reasons: Sequence[str], note: str) -> _Next:
        verb = _verb(review.leased.case, action)
        done = f"{_PAST[verb].capitalize()} {_object(review.leased.case, reasons)}."
        review.sent = _Sent(verb, action, done)
        try:
            await self._session.decide(review.leased, action, reasons, note)
        except ApiError as error:
            if error.status not in (409, 422):
                raise
            review.sent = None
            console_output.show(f"Not decided: {error}", "red")
            if error.slug not in LEASE_ENDED:
                return _Next.CHOICE  # still leased: another action, a skip or other reasons are possible
            review.lease_ended()
            self.done["lost"] += 1
            return _Next.CASE
        review.lease_ended()
        self.done[verb] += 1
        console_output.show(done, "green")
        return _Next.CASE

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
            elif len(reasons) > MAX_REASONS:
                console_output.show(f"Nothing was sent: a decision has at most {MAX_REASONS} reason codes.", "red")
            elif reasons:
                return reasons

    async def _ask_note(self, note: str) -> str:
        """The note for the next decision; the present one if cancelled."""
        entered = await self._lines.ask("note for the decision, q to cancel > ")
        text = "" if entered is None else entered.strip()
        if text in _CANCEL:
            console_output.show(f"The note is unchanged: {console_output.clean(note, 200) or 'none'}.")
            self._lines.discard_typed()
            return note
        problem = f"is longer than {LONGEST_NOTE} characters" if len(text) > LONGEST_NOTE else ""
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
        now = self._clock.now()
        console_output.console.print(case_display.case_display(case, self._rules, earlier, now, lines=lines))

    def _page(self, case: Mapping[str, Any], earlier: DecidedCases) -> None:
        """Show the whole case, in a pager on a terminal."""
        if not console_output.console.is_terminal:
            self._show_case(case, earlier, lines=None)
            return
        with console_output.console.pager():
            self._show_case(case, earlier, lines=None)


class _Sent(NamedTuple):
    """A decision that was sent; `done` is the sentence that reports it."""

    verb: str
    action: str
    done: str


class _CaseReview:
    """A leased case under review: extends the lease until it ends. `lost` is the reason why the lease is lost; `sent`
    is a decision that was sent and has had no response."""

    def __init__(self, leased: LeasedCase, session: ReviewSession, clock: Clock) -> None:
        self.leased = leased
        self.lost = ""
        self.sent: _Sent | None = None
        self._session = session
        self._clock = clock
        self._held = True
        self._extending = asyncio.create_task(self._extend())

    def lease_ended(self) -> None:
        """Note that the lease has ended, by a decision or otherwise."""
        self._held = False
        self._extending.cancel()

    async def end(self, reason: str = "not decided") -> bool:
        """Release the case, unless its lease has ended; True if the decision that was sent is recorded."""
        held, problem = self._held, ""
        self.lease_ended()
        if not held:
            return False
        if not self.lost:
            try:
                await self._session.release(self.leased, reason)
            except UserError as error:
                problem = f"Not released: {error}"
            else:
                return False
        if self.sent is not None and await self._is_recorded(self.sent):
            return True
        if problem:
            console_output.show(problem, "red")
        if self.sent is not None:
            console_output.show(
                f"Your decision ({self.sent.verb}) had no response. It may have been recorded:"
                f" see case {self.leased.id}.",
                "red",
            )
        return False

    async def _is_recorded(self, sent: _Sent) -> bool:
        try:
            decision = await self._session.decision(self.leased)
        except UserError:
            return False
        return decision == (self._session.reviewer, sent.action)

    async def _extend(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self._session.heartbeat(self.leased)
            except UserError as error:
                if not isinstance(error, ApiError) or error.slug not in LEASE_ENDED:  # the lease may still run
                    console_output.show(f"\nThe lease was not extended: {error}", "red")
                    continue
                self.lost = f"case {self.leased.id} is no longer yours: {error}"
                console_output.show(f"\nCase {self.leased.id} is no longer yours: {error}", "red")
                return


def _show_codes(codes: ValidReasons) -> None:
    table = console_output.table("reason code", "title")
    for code, titles in codes.titles.items():
        table.add_row(code, console_output.clean("; ".join(titles), 300))
    console_output.console.print(table)


def _verb(case: Mapping[str, Any], action: str) -> str:
    """The action in words that a reviewer cannot misread: to approve a notice means to dismiss it."""
    return _OF_A_NOTICE[action] if case.get("case_type", "item") == "notice" else action


def _object(case: Mapping[str, Any], reasons: Sequence[str]) -> str:
    """The object of the verb with the reasons, on one line: an item, a notice, or the decision that an appeal
    contests."""
    for_reasons = f" for {', '.join(reasons)}" if reasons else ""
    kind = case.get("case_type", "item")
    if kind == "item":
        return f"{_named(case)}{for_reasons}"
    if kind == "notice":
        return f"the notice about {_named(case)}{for_reasons}"
    return f"the decision to {case_display.contested_act(case)} {_named(case)}{for_reasons}"


def _named(case: Mapping[str, Any]) -> str:
    """The subject and the title of a case, on one line."""
    title = console_output.clean((case_display.item_case(case).get("item") or {}).get("title", ""), 60)
    return case_display.subject(case) + (f" “{title}”" if title else "")


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C: it belongs to the pager. A handler, because the pager would inherit SIG_IGN."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _duration(seconds: float) -> str:
    """A duration as text."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
