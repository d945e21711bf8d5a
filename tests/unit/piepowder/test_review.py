"""The review at the terminal: only the exact letter and Enter decide, and a rejection also needs a confirmation."""

import asyncio
import io
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from piepowder import console_output, review
from piepowder.line_input import TerminalInput
from piepowder.review_session import LEASE_ENDED, LeasedCase, ValidReasons, suggested_reasons
from tests.support.decision.cases import opened
from tests.support.review_session import CODES, Made, MemoryReviews, ScriptedInput, reviewer, shown, worked

CASES = [shown(opened("eu", f"s{n}")[1]) for n in range(3)]
CASE = CASES[0]
ID = CASE["case_id"]
REJECTION = ("r", "FAKE", "y")
WRONG = ("", "q", "Q", "\x1b", "Y", "yes", "a", "s", "FAKE", " y", "y ", "x")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The output of the command."""
    written = io.StringIO()
    console = Console(file=written, width=160, highlight=False, markup=False, emoji=False)
    monkeypatch.setattr(console_output, "console", console)
    return written


async def test_an_approval_is_a_letter_and_a_rejection_needs_reasons_and_a_confirmation(said: io.StringIO) -> None:
    reviews, asked, done = await worked(CASES, "a", "r", "fake,weapons FAKE", "y", "q")
    assert reviews.made == [Made(ID, "approve", []), Made(CASES[1]["case_id"], "reject", ["FAKE", "WEAPONS"])]
    assert done == {"approve": 1, "reject": 1}
    assert asked[2:4] == ["reason codes, + for OTHER, ? for a list, q to cancel > ", "y and Enter to send it > "]
    assert (
        "Reject shop:product:s1 “Uhr s1” for FAKE, WEAPONS: the marketplace is told to restrict the item.\n"
        in said.getvalue()
    )
    assert "Rejected shop:product:s1 “Uhr s1” for FAKE, WEAPONS.\n" in said.getvalue()
    assert "Approved shop:product:s0 “Uhr s0”.\n" in said.getvalue()
    assert reviews.released == [(CASES[2]["case_id"], "not decided")]


NO_ACTIONS = ("A", "R", "approve", "reject", " a", "a ", "aa", "ar", "yes", "y", "AGE", "u", "o", "?", "+")


@pytest.mark.parametrize("line", NO_ACTIONS)
async def test_only_the_exact_letter_is_an_action(line: str, said: io.StringIO) -> None:
    reviews, asked, done = await worked(CASE, line)
    assert (reviews.made, done, len(asked)) == ([], {}, 2)
    assert "Nothing was done: enter a, r, n, v, s or q, then Enter." in said.getvalue()


@pytest.mark.parametrize("line", ["", "\x1b", "Q"])
async def test_a_cancel_at_the_first_prompt_changes_nothing(line: str) -> None:
    reviews, asked, done = await worked(CASE, line)
    assert (reviews.made, done, len(asked)) == ([], {}, 2)


@pytest.mark.parametrize("cancel", ["", "q", "Q", "\x1b", " ", " q "])
async def test_a_cancel_at_the_reasons_sends_nothing(cancel: str, said: io.StringIO) -> None:
    """`r` then `q` once recorded a rejection with the reason Q."""
    reviews, asked, done = await worked(CASE, "r", cancel, "a")
    assert reviews.made == [Made(ID, "approve", [])]
    assert asked[0] == asked[2]
    assert "Cancelled: nothing was sent." in said.getvalue()
    assert done == {"approve": 1}


@pytest.mark.parametrize("line", WRONG)
async def test_only_y_confirms(line: str, said: io.StringIO) -> None:
    reviews, asked, _ = await worked(CASE, "r", "FAKE", line)
    assert (reviews.made, len(asked)) == ([], 4)
    assert "Cancelled: nothing was sent." in said.getvalue()


@pytest.mark.parametrize("cancel", ["", "q", "Q", "\x1b"])
async def test_a_cancelled_note_leaves_the_note_unchanged(cancel: str) -> None:
    reviews, _, _ = await worked(CASE, "n", "first", "n", cancel, "a")
    assert reviews.made == [Made(ID, "approve", [], "first")]


async def test_a_note_belongs_to_its_case_only_and_is_part_of_the_confirmation(said: io.StringIO) -> None:
    reviews, _, _ = await worked(CASES, "n", " a fake dial ", "r", "+", "y", "a", "q")
    assert [made.note for made in reviews.made] == ["a fake dial", ""]
    assert "for OTHER, note “a fake dial”: the marketplace is told to restrict the item." in said.getvalue()


@pytest.mark.parametrize("note", ["x" * 5001, "a\0b", "a\x1b[2J"])
async def test_an_unusable_note_is_refused(note: str) -> None:
    reviews, _, _ = await worked(CASE, "n", note, "a")
    assert reviews.made == [Made(ID, "approve", [])]


async def test_an_unknown_reason_is_refused_before_it_is_sent_and_the_valid_ones_are_listed(said: io.StringIO) -> None:
    reviews, asked, _ = await worked(CASE, "r", "FAKE QUIT", "spam", "FAKE", "y")
    assert reviews.made == [Made(ID, "reject", ["FAKE"])]
    assert len({*asked[1:4]}) == 1
    assert "there is no reason code QUIT. The valid ones:" in said.getvalue()
    assert "there is no reason code SPAM. The valid ones:" in said.getvalue()
    assert "Ground of notices: counterfeit" in said.getvalue()


async def test_a_question_mark_lists_the_reason_codes() -> None:
    reviews, _, _ = await worked(CASE, "r", "?", "WEAPONS", "y")
    assert reviews.made == [Made(ID, "reject", ["WEAPONS"])]


async def test_a_refusal_of_the_service_is_shown_and_the_reviewer_chooses_again(said: io.StringIO) -> None:
    for slug in ("unknown-reason", "own-decision", "replaced"):
        reviews = MemoryReviews(CASE, failing={"decide": slug})
        await reviewer(reviews, ScriptedInput(*REJECTION, "s")).work()
        assert (reviews.made, reviews.released) == ([], [(ID, "skipped")])
        assert f"Not decided: Refused: {slug}." in said.getvalue()


@pytest.mark.parametrize("slug", sorted(LEASE_ENDED))
async def test_after_a_lost_lease_the_next_case_comes_and_nothing_is_released(slug: str) -> None:
    reviews = MemoryReviews(*CASES[:2], failing={"decide": slug})
    person = reviewer(reviews, ScriptedInput("a", "a", "q"))
    await person.work()
    assert reviews.made == [Made(CASES[1]["case_id"], "approve", [])]
    assert (reviews.released, dict(person.done)) == ([], {"lost": 1, "approve": 1})


class Slow(ScriptedInput):
    """A person who enters a line only after a call has failed."""

    def __init__(self, reviews: MemoryReviews, *lines: str) -> None:
        super().__init__(*lines)
        self._reviews = reviews

    async def ask(self, prompt: str) -> str | None:
        await self._reviews.failed.wait()
        await asyncio.sleep(0)  # the review notes the failure
        return await super().ask(prompt)


async def test_the_lease_is_extended_after_each_third_of_it_while_the_reviewer_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    pass_time = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await pass_time(0 if len(slept) < 4 else 3_600)

    class Reading(ScriptedInput):
        async def ask(self, prompt: str) -> str | None:
            while len(slept) < 4:
                await pass_time(0)
            return await super().ask(prompt)

    class Counting(MemoryReviews):
        extended = 0

        async def heartbeat(self, leased: LeasedCase) -> None:  # noqa: ARG002 - it has one
            self.extended += 1

    monkeypatch.setattr(asyncio, "sleep", sleep)
    reviews = Counting(CASE)
    await reviewer(reviews, Reading("a")).work()
    assert (slept, reviews.extended) == ([40.0] * 4, 3)


@pytest.mark.parametrize("slug", ["unauthorized", "unavailable", "rate-limited"])
async def test_a_heartbeat_that_fails_for_another_reason_is_no_lost_lease(
    slug: str, monkeypatch: pytest.MonkeyPatch, said: io.StringIO
) -> None:
    monkeypatch.setattr(review, "LEASE_SECONDS", 0)
    reviews = MemoryReviews(CASE, failing={"heartbeat": slug})
    person = reviewer(reviews, Slow(reviews, "a"))
    await person.work()
    assert (reviews.made, dict(person.done)) == ([Made(ID, "approve", [])], {"approve": 1})
    assert f"The lease was not extended: Refused: {slug}." in said.getvalue()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, asyncio.CancelledError])
async def test_a_decision_without_a_response_is_looked_up(interrupt: type[BaseException], said: io.StringIO) -> None:
    class Interrupted(MemoryReviews):
        async def decide(self, leased: LeasedCase, action: str, reasons: Sequence[str], note: str = "") -> None:
            await super().decide(leased, action, reasons, note)
            raise interrupt

    reviews = Interrupted(CASE, failing={"release": "already-decided"})
    person = reviewer(reviews, ScriptedInput("a"))
    with suppress(interrupt):
        await person.work()
    person.show_summary()
    assert (reviews.made, dict(person.done)) == ([Made(ID, "approve", [])], {"approve": 1})
    assert "Approved shop:product:s0 “Uhr s0”. The response was lost, but the decision is recorded." in said.getvalue()
    assert "You decided 1 in 0 s, 0 s for each: 1 approved." in said.getvalue()


async def test_a_decision_without_a_response_is_looked_up_also_when_the_lease_is_lost_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(review, "LEASE_SECONDS", 0)

    class Interrupted(MemoryReviews):
        async def decide(self, leased: LeasedCase, action: str, reasons: Sequence[str], note: str = "") -> None:
            await super().decide(leased, action, reasons, note)
            await self.failed.wait()  # of the heartbeat
            await asyncio.sleep(0)
            raise KeyboardInterrupt

    reviews = Interrupted(CASE, failing={"heartbeat": "already-decided"})
    person = reviewer(reviews, ScriptedInput("a"))
    with suppress(KeyboardInterrupt):
        await person.work()
    assert (reviews.released, dict(person.done)) == ([], {"approve": 1})


async def test_a_decision_that_did_not_arrive_is_not_counted(said: io.StringIO) -> None:
    class Interrupted(MemoryReviews):
        async def decide(self, *_: object) -> None:
            raise KeyboardInterrupt

    for failing, said_last in (({}, ""), ({"release": "lease-expired"}, "Your decision (approve) had no response.")):
        reviews = Interrupted(CASE, failing=failing)
        person = reviewer(reviews, ScriptedInput("a"))
        with suppress(KeyboardInterrupt):
            await person.work()
        assert (reviews.made, dict(person.done)) == ([], {})
        assert said_last in said.getvalue()


async def test_a_refused_decision_is_not_reported_as_one_without_a_response(said: io.StringIO) -> None:
    person = reviewer(
        MemoryReviews(CASE, failing={"decide": "own-decision", "release": "lease-expired"}), ScriptedInput("a")
    )
    await person.work()
    assert dict(person.done) == {}
    assert "Not decided: Refused: own-decision." in said.getvalue()
    assert "Not released: Refused: lease-expired." in said.getvalue()
    assert "had no response" not in said.getvalue()


@pytest.mark.parametrize("decision", [("r-72", "approve"), ("r-71", "reject"), None])
async def test_another_decision_than_the_one_without_a_response_is_not_counted(
    decision: tuple[str, str] | None, said: io.StringIO
) -> None:
    class Interrupted(MemoryReviews):
        async def decide(self, *_: object) -> None:
            raise KeyboardInterrupt

        async def decision(self, leased: LeasedCase) -> tuple[str, str] | None:  # noqa: ARG002 - it has one
            return decision

    person = reviewer(Interrupted(CASE, failing={"release": "already-decided"}), ScriptedInput("a"))
    with suppress(KeyboardInterrupt):
        await person.work()
    assert dict(person.done) == {}
    assert f"Your decision (approve) had no response. It may have been recorded: see case {ID}." in said.getvalue()


async def test_cases_that_only_others_may_decide_are_counted(said: io.StringIO) -> None:
    class Others(MemoryReviews):
        async def waiting(self) -> int | None:
            return len(self.waiting_cases) + 2

    await reviewer(Others(CASE), ScriptedInput("s")).work()
    assert (
        "No case waits except the 1 that you skipped, and 2 that you may not decide, such as appeals against your own"
        " decisions.\n"
    ) in said.getvalue()
    await reviewer(Others(), ScriptedInput()).work()
    assert (
        "No case waits that you may decide. 2 wait for other reviewers, such as appeals against your own decisions.\n"
    ) in said.getvalue()


async def test_keys_of_the_pager_and_of_a_cancelled_action_are_forgotten() -> None:
    for lines, discarded in ((("v", "q"), 2), (("r", "q", "q"), 2), (("r", "FAKE", "x", "q"), 2), (("n", "q", "q"), 2)):
        keyboard = ScriptedInput(*lines)
        await reviewer(MemoryReviews(CASE), keyboard).work()
        assert keyboard.discarded == discarded, lines


@pytest.mark.parametrize("line", ["a", "r", "s", "n", "v", "x", ""])
async def test_a_line_after_the_loss_of_the_lease_sends_nothing(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "LEASE_SECONDS", 0)
    reviews = MemoryReviews(CASE, failing={"heartbeat": "lease-expired"})

    person = reviewer(reviews, Slow(reviews, line))
    await person.work()
    assert (reviews.made, reviews.released, dict(person.done)) == ([], [], {"lost": 1})


async def test_a_skipped_case_is_released_at_once_and_not_claimed_again() -> None:
    reviews = MemoryReviews(*CASES)
    seen: list[list[str]] = []

    class Watching(ScriptedInput):
        async def ask(self, prompt: str) -> str | None:
            seen.append(list(reviews.held))
            return await super().ask(prompt)

    person = reviewer(reviews, Watching("s", "s", "a"))
    await person.work()
    assert seen == [[case["case_id"]] for case in CASES], "one lease at a time"
    assert [case_id for case_id, _ in reviews.released] == [case["case_id"] for case in CASES[:2]]
    assert {case["case_id"] for case in reviews.waiting_cases} == {case["case_id"] for case in CASES[:2]}
    assert dict(person.done) == {"skipped": 2, "approve": 1}


async def test_more_cases_may_be_skipped_than_a_claim_may_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "MAX_SKIPPED", 2)
    reviews = MemoryReviews(*CASES)
    await reviewer(reviews, ScriptedInput(*"ssss", "q")).work()
    ends = [case_id for case_id, _ in reviews.released]
    assert ends == [CASES[n]["case_id"] for n in (0, 1, 2, 0, 1)], "the one that was skipped first comes again"
    assert reviews.held == []


@pytest.mark.parametrize("before", [(), ("r",), ("r", "FAKE"), ("n",)])
async def test_the_end_of_the_input_ends_the_review_at_each_prompt_and_releases_the_case(before: Sequence[str]) -> None:
    reviews, _, done = await worked(CASE, *before)
    assert (reviews.made, reviews.released, reviews.held, done) == ([], [(ID, "not decided")], [], {})


@pytest.mark.parametrize("before", [(), ("r",), ("r", "FAKE"), ("n",)])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, asyncio.CancelledError])
async def test_an_interruption_releases_the_case_at_each_prompt(
    before: Sequence[str], interrupt: type[BaseException]
) -> None:
    reviews = MemoryReviews(CASE)
    person = reviewer(reviews, ScriptedInput(*before, interrupt()))
    try:
        await person.work()
    except interrupt:
        pass
    else:
        raise AssertionError("not interrupted")
    assert (reviews.made, reviews.released) == ([], [(ID, "not decided")])


async def test_keys_that_were_pressed_before_a_case_is_shown_are_forgotten() -> None:
    keyboard = ScriptedInput("a", "s", "a")
    await reviewer(MemoryReviews(*CASES), keyboard).work()
    assert keyboard.discarded == 3


async def test_with_confirm_an_approval_is_confirmed_too() -> None:
    for line, made in (("y", [Made(ID, "approve", [])]), ("", []), ("a", []), ("q", [])):
        reviews, asked, _ = await worked(CASE, "a", line, confirm=True)
        assert (reviews.made, asked[1]) == (made, "y and Enter to send it > ")


def test_the_suggested_reasons_are_valid_under_the_set_in_force() -> None:
    case = {**CASE, "reasons": ["POLICY_ERROR", "WEAPONS", "GONE"], "notice": {"ground": "counterfeit"}}
    assert suggested_reasons(case, CODES) == ["WEAPONS"]
    assert suggested_reasons({**case, "reasons": ["GONE"]}, CODES) == ["COUNTERFEIT"]
    assert suggested_reasons({**case, "reasons": []}, ValidReasons({"OTHER": []})) == ["OTHER"]


async def test_the_summary_has_counts_and_pace(said: io.StringIO) -> None:
    person = reviewer(MemoryReviews(*CASES), ScriptedInput("a", *REJECTION, "s"))
    await person.work()
    person._began -= 90
    person.show_summary()
    assert "You decided 2 in 90 s, 45 s for each: 1 approved, 1 rejected. 1 skipped.\n" in said.getvalue()
    assert "No case waits except the 1 that you skipped.\n" in said.getvalue()
    assert "1 decided · 0 s for each · 1 more wait\n" in said.getvalue()


# Property: no key that is pressed once decides anything, whatever was entered before.

KEYS = [
    *"arsqyY+ \r\n\t\x03\x04\x0b\x10\x12\x1a\x7f",
    "\x1b",
    "\x1b[A",
    "\x1ba",
    "\x1br",
    "\x1by",
    "\x1b\x7f",
    "\x1b[200~a\r\x1b[201~",
]
STATES: dict[tuple[str, ...], list[Made]] = {  # lines that lead to a prompt, and the decisions that they made
    (): [],
    ("r",): [],
    ("r", "FAKE"): [],
    ("n",): [],
    ("n", "note", "r", "+"): [],
    REJECTION: [Made(ID, "reject", ["FAKE"])],
}


async def keys_pressed(keyboard: PipeInput, reviews: MemoryReviews, lines: Sequence[str], key: str) -> None:
    """Enter `lines`, press one key, and end the input."""
    prompts = asyncio.Queue[None]()

    class Watched(TerminalInput):
        async def ask(self, prompt: str) -> str | None:
            prompts.put_nowait(None)
            return await super().ask(prompt)

    person = reviewer(reviews, Watched(keyboard, DummyOutput()))

    async def work() -> None:
        with suppress(KeyboardInterrupt):
            await person.work()

    working = asyncio.create_task(work())
    for line in lines:
        await prompts.get()
        keyboard.send_text(f"{line}\r")
    await prompts.get()
    keyboard.send_text(key)
    await asyncio.sleep(0)
    keyboard.close()
    await working


@pytest.mark.parametrize("lines", STATES)
async def test_no_single_key_decides_a_case(lines: tuple[str, ...]) -> None:
    for key in KEYS:
        reviews = MemoryReviews(*CASES)
        with create_pipe_input() as keyboard:
            await keys_pressed(keyboard, reviews, lines, key)
        assert reviews.made == STATES[lines], repr(key)
        assert reviews.held == []


@given(st.lists(st.text(max_size=4) | st.sampled_from(["r", "n", "s", "+", "FAKE", "q", "", "\x1b", "Y"])))
def test_without_the_exact_letters_no_lines_decide_a_case(lines: list[str]) -> None:
    entered = [line for line in lines if line not in ("a", "y", "v")]
    reviews = MemoryReviews(*CASES)
    asyncio.run(reviewer(reviews, ScriptedInput(*entered)).work())
    assert (reviews.made, reviews.held) == ([], [])
