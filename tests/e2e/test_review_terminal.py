"""Thirty cases are decided at a terminal, with every kind of slip between them; the meant decisions are stored."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from deploy.local.run_cases import RunCases
from deploy.local.topic_reader import TopicReader
from piepowder.client import Api
from piepowder.simulation import Simulation, simulate
from piepowder.tally import JournalEntry, Tally
from shared.contracts import ids
from tests.conftest import project_root
from tests.e2e.conftest import Cell
from tests.e2e.drive import running
from tests.e2e.steps import decide, item, post, until, until_claimed, until_complaint_status, until_status
from tests.support.intake_complaints import appeal, notice
from tests.support.pseudo_terminal import PseudoTerminal

pytestmark = pytest.mark.timeout(240)

ESC, CTRL_C, CTRL_D = "\x1b", "\x03", "\x04"
FIRST = "[q]uit >"
REASONS = "q to cancel >"
CONFIRM = "y and Enter to send it >"
CANCELLED = "Cancelled: nothing was sent."
NOTHING = "Nothing was done:"
SLIPS: list[list[tuple[str, str]]] = [  # keys, and the text that must appear afterwards
    [],
    [("x\r", NOTHING)],
    [("A\r", NOTHING), ("approve\r", NOTHING), ("ar\r", NOTHING)],
    [("r\r", REASONS), ("q\r", CANCELLED)],
    [("r\r", REASONS), ("\r", CANCELLED)],
    [("r\r", REASONS), (ESC, CANCELLED)],
    [("r\r", REASONS), ("+\r", CONFIRM), ("q\r", CANCELLED)],
    [("r\r", REASONS), ("+\r", CONFIRM), ("\r", CANCELLED)],
    [("r\r", REASONS), ("+\r", CONFIRM), (ESC, CANCELLED)],
    [("r\r", REASONS), ("+\r", CONFIRM), ("Y\r", CANCELLED)],
    [("r\r", REASONS), ("QUIT\r", "there is no reason code QUIT"), ("q\r", CANCELLED)],
    [("n\r", "note for the decision"), ("q\r", "The note is unchanged: none.")],
    [("n\r", "note for the decision"), (ESC, "The note is unchanged: none.")],
    [("n\r", "note for the decision"), ("\r", "The note is unchanged: none.")],
    [("v\r", "Replica watch")],
]


def command(cell: Cell, *arguments: str) -> list[str]:
    options = ["--folder", str(cell.system.folder), "--region", cell.eu, "--queue", "counterfeit"]
    return [sys.executable, "-m", "piepowder", "review", *options, *arguments]


def environment(term: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIEPOWDER_")}
    return kept | {"TERM": term, "PAGER": "cat"}


def terminal(cell: Cell, *arguments: str, term: str = "xterm") -> PseudoTerminal:
    return PseudoTerminal(command(cell, *arguments), cwd=str(project_root()), env=environment(term))


def submit(cell: Cell, prefix: str, count: int) -> dict[str, str]:
    """Post items that wait for a review; returns their ids by subject."""
    items = {}
    for number in range(count):
        body = item(id=f"{prefix}-{number}", title=f"Replica watch {number}", gtin="4006381333931")
        items[f"web:product:{prefix}-{number}"] = post(cell, "items", body)["item_id"]
    for item_id in items.values():
        until_status(cell, item_id, cell.eu, "in_review")
    return items


def cases_of(cell: Cell, items: dict[str, str]) -> dict[str, str]:
    """The ids of the items' cases by subject."""
    return {subject: ids.case_id(item_id, cell.eu, "item") for subject, item_id in items.items()}


def case_of(cell: Cell, case_id: str) -> dict[str, Any]:
    found: dict[str, Any] = cell.client.get(f"{cell.url('decision', cell.eu)}/v1/cases/{case_id}").json()
    return found


def next_subject(screen: PseudoTerminal) -> str:
    """Wait until a case and its prompt are shown; returns its subject."""
    screen.expect(" decided")
    found = re.search(r"subject +(\S+)", screen.expect(FIRST))
    assert found is not None
    return found[1]


def enter(screen: PseudoTerminal, slips: Sequence[tuple[str, str]]) -> None:
    """Make the slips, each after the prompt that the one before has led to."""
    for keys, text in slips:
        screen.press(keys)
        screen.expect(text)
        if text in (CANCELLED, NOTHING, "Replica watch") or text.startswith("The note is unchanged"):
            screen.expect(FIRST)
        elif text.startswith("there is no reason code"):
            screen.expect(REASONS)


def reject(screen: PseudoTerminal, codes: str) -> None:
    screen.press("r\r")
    screen.expect(REASONS)
    screen.press(f"{codes}\r")
    screen.expect(CONFIRM)
    screen.press("y\r")
    screen.expect("Rejected web:product:")


def approve(screen: PseudoTerminal) -> None:
    screen.press("a\r")
    screen.expect("Approved web:product:")


def stored(cell: Cell, cases: dict[str, str]) -> dict[str, list[tuple[str, list[str], str, str]]]:
    """The decisions by subject: action, reasons, note, reviewer."""
    found = {}
    for subject, case_id in cases.items():
        case = case_of(cell, case_id)
        found[subject] = [(d["action"], d["reasons"], d["note"], d["reviewer"]) for d in case["decisions"]]
        assert case["state"] == ("decided" if found[subject] else "waiting"), subject
    return found


def test_thirty_cases_are_decided_as_meant(cell: Cell) -> None:
    cases = cases_of(cell, submit(cell, "thirty", 33))
    expected: dict[str, list[tuple[str, list[str], str, str]]] = {subject: [] for subject in cases}

    with terminal(cell, "--reviewer", "ann") as screen:
        for number in range(15):  # each slip once, then a decision
            subject = next_subject(screen)
            enter(screen, SLIPS[number])
            if number % 2:
                reject(screen, "counterfeit, unsafe_product")
                expected[subject] = [("reject", ["COUNTERFEIT", "UNSAFE_PRODUCT"], "", "ann")]
            else:
                approve(screen)
                expected[subject] = [("approve", [], "", "ann")]

        skipped = next_subject(screen)
        screen.press("s\r")
        screen.expect("Skipped web:product:")
        until(
            lambda: cell.client.get(f"{cell.url('decision', cell.eu)}/v1/cases/{cases[skipped]}"),
            lambda case: case["state"] == "waiting",
        )

        lost = next_subject(screen)
        assert lost != skipped
        lease = {"lease_token": 1, "reviewer": "ann"}
        path = f"{cell.url('decision', cell.eu)}/v1/cases/{cases[lost]}/release"
        assert cell.client.post(path, json=lease).status_code == 200
        screen.press("a\r")
        screen.expect("Not decided: Lease 1")

        interrupted = next_subject(screen)
        screen.press("r\r")
        screen.expect(REASONS)
        screen.press("+\r")
        screen.expect(CONFIRM)
        screen.press(CTRL_C)
        summary = screen.expect("1 skipped. 1 lost.")
        assert re.search(r"You decided 15 in \d+ \w+, \d+ s for each: 8 approved, 7 rejected\.", summary)
        assert screen.wait() == 130
    assert stored(cell, cases) == expected

    with terminal(cell, "--reviewer", "ben") as screen:  # the end of the input in the middle of a rejection
        assert next_subject(screen) in (skipped, lost, interrupted)
        screen.press("r\r")
        screen.expect(REASONS)
        screen.press(CTRL_D)
        screen.expect("You decided 0 in")
        assert screen.wait() == 0
    assert stored(cell, cases) == expected

    with terminal(cell, "--reviewer", "ben", term="dumb") as screen:  # whole lines, without keys of their own
        for number in range(15):
            subject = next_subject(screen)
            enter(screen, [(keys if keys != ESC else f"{ESC}\r", text) for keys, text in SLIPS[-1 - number]])
            if number % 3:
                screen.press("n\r")
                screen.expect("note for the decision")
                screen.press("as described\r")
                screen.expect(FIRST)
            note = "as described" if number % 3 else ""
            if number % 2:
                reject(screen, "+")
                expected[subject] = [("reject", ["COUNTERFEIT_SUSPECTED"], note, "ben")]
            else:
                approve(screen)
                expected[subject] = [("approve", [], note, "ben")]
        next_subject(screen)
        screen.press("q\r")
        screen.expect("You decided 15 in")
        assert screen.wait() == 0
    assert stored(cell, cases) == expected
    assert sum(map(len, expected.values())) == 30


def test_everything_that_the_reviewer_judges_is_shown_and_a_pipe_works_too(cell: Cell) -> None:
    long = "\n".join(f"Line {number} of the description." for number in range(200))
    fields = {
        "title": "Replica watch",
        "text": long,
        "gtin": "4006381333931",
        "media": ["https://pictures.example/1.jpg", "https://pictures.example/2.jpg"],
        "attributes": {"case": "steel"},
        "seller": {"id": "s-9", "name": "Bo", "rating": 4.5},
    }
    posted = post(cell, "items", item(id="shown", version=1, **fields))
    until_status(cell, posted["item_id"], cell.eu, "in_review")
    first = until_claimed(cell, "zoe", "counterfeit")
    while first["case"]["subject_id"] != "shown":
        first = until_claimed(cell, "zoe", "counterfeit")
    decide(cell, first, "reject", "COUNTERFEIT")
    second = post(cell, "items", item(id="shown", version=2, **fields))
    until_status(cell, second["item_id"], cell.eu, "in_review")
    case_id = ids.case_id(second["item_id"], cell.eu, "item")

    def piped(entered: str) -> str:
        done = subprocess.run(
            command(cell, "--reviewer", "pat"),
            input=entered,
            capture_output=True,
            text=True,
            cwd=project_root(),
            env=environment("xterm"),
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    output = piped("a")  # a letter without Enter is no decision
    assert case_of(cell, case_id)["decisions"] == []
    for text in (
        *("https://pictures.example/1.jpg", "https://pictures.example/2.jpg", "4006381333931"),
        *("case: steel", "Line 0 of", "Line 199 of", "id s-9, name Bo, rating 4.5", "version 2 of the item"),
        'if (kind == "product") and ("counterfeit-words" in terms)',
        "found “replica” (counterfeit-words)",
        "item version 1: reject for COUNTERFEIT, by zoe (in_house)",
        "reject: the marketplace is told to restrict the item",
    ):
        assert text in output, text
    output = piped("r\n+\ny\nq\n")
    assert "Rejected web:product:shown “Replica watch” for COUNTERFEIT_SUSPECTED." in output
    assert [made["action"] for made in case_of(cell, case_id)["decisions"]] == ["reject"]


def test_notices_and_appeals_are_decided_with_their_effect_in_words(cell: Cell) -> None:
    posted = post(cell, "items", item(id="reported", title="Garden chair of oak"))
    until_status(cell, posted["item_id"], cell.eu, "approved")
    reported = post(cell, "notices", notice(id="reported", platform="web"))
    until_complaint_status(cell, "notices", reported["notice_id"], "in_review")
    arguments = ["--folder", str(cell.system.folder), "--region", cell.eu, "--queue", "notices"]
    review = [sys.executable, "-m", "piepowder", "review", *arguments]
    with PseudoTerminal([*review, "--reviewer", "ann"], cwd=str(project_root()), env=environment("xterm")) as screen:
        shown = screen.expect(FIRST)
        assert "reject (follow the notice): the marketplace is told to restrict the item" in shown
        screen.press("r\r")
        screen.expect(REASONS)
        screen.press("+\r")
        assert "the notice about web:product:reported" in screen.expect(CONFIRM)
        screen.press("y\r")
        screen.expect("Followed the notice about web:product:reported")
        screen.expect("No case waits.")
        assert screen.wait() == 0
    until_complaint_status(cell, "notices", reported["notice_id"], "decided")
    contested = post(cell, "appeals", appeal(notice_id=reported["notice_id"], region=cell.eu))
    until_complaint_status(cell, "appeals", contested["appeal_id"], "in_review")
    review += ["--queue", "appeals"]
    with PseudoTerminal([*review, "--reviewer", "ben"], cwd=str(project_root()), env=environment("xterm")) as screen:
        shown = screen.expect(FIRST)
        assert "overturn: the appeal succeeds: the decision to follow the notice is replaced by approve" in shown
        assert "by ann (in_house)" in " ".join(shown.split())
        screen.press("a\r")
        screen.expect(NOTHING)
        screen.press("o\r")
        assert "Overturn the decision to follow the notice web:product:reported" in screen.expect(CONFIRM)
        screen.press("y\r")
        screen.expect("Overturned the decision to follow the notice web:product:reported")
        assert screen.wait() == 0
    found = until_complaint_status(cell, "notices", reported["notice_id"], "decided")
    assert found["decision"]["action"] == "approve"


async def test_the_simulated_reviewers_of_a_run_touch_only_its_own_items(cell: Cell) -> None:
    own, others = await asyncio.to_thread(submit, cell, "own", 4), await asyncio.to_thread(submit, cell, "other", 3)
    tally = Tally()
    for subject, item_id in own.items():
        tally.accept(JournalEntry(1, item_id, subject, [cell.eu]))
    pool = RunCases(tally)
    reader = TopicReader(cell.system.servers.kafka, cell.system.regions, pool)
    try:
        await reader.catch_up()
        async with Api(running(cell.system)) as api:
            crew = Simulation(api=api, regions=[cell.eu], each=2, seed=1, truth={}, pool=pool)
            done = await simulate(crew, None)
    finally:
        await reader.close()
    assert sum(done.values()) >= len(own)
    for case_id in cases_of(cell, own).values():
        [made] = (await asyncio.to_thread(case_of, cell, case_id))["decisions"]
        assert made["reviewer"].startswith("sim-")
    for subject in others:
        path = f"{cell.url('audit', cell.eu)}/v1/subjects/{subject.replace(':', '/')}/timeline"
        get = partial(cell.client.get, path)
        log = await asyncio.to_thread(until, get, lambda body: len(body.get("events", ())) > 1)
        types = [event["type"] for event in log["events"]]
        assert types == ["piepowder.item.submitted.v1", "piepowder.case.opened.v1"], "never claimed"
