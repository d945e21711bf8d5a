"""The profile of the bench: processor time by part, the cost of an item, and the sections of the page."""

from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord

import shared.kafka.producer
import tests.bench.kafka
from services.router.domain.routing import OperatingModel, RulesInForce
from services.router.handlers.routing import RouteSubmissions
from services.router.policies import compile_policy_set
from shared.contracts.envelope import Encoded
from shared.kafka.consumer import Received
from shared.kafka.producer import KafkaProducer, Record
from shared.runtime.clock import SystemClock
from tests.bench import data, document, flame, report
from tests.bench.__main__ import STAGES
from tests.bench.peers.routing import Routing, partition
from tests.bench.report import Cost, Figure, Mark

BOX = (
    '<g><title>{what} ({samples} samples, 1.00%)</title><rect x="1.0%" y="{y}" width="1.0%" height="15"'
    ' fill="rgb(1,2,3)" fg:x="{begin}" fg:w="{samples}"/><text x="1.0%" y="1.5">short</text></g>'
)


def graph(*boxes: tuple[str, int, int, int]) -> str:
    """A graph as py-spy draws it, of (what, depth, begin, samples)."""
    drawn = [BOX.format(what=what, y=100 + 16 * depth, begin=begin, samples=n) for what, depth, begin, n in boxes]
    return f'<svg><svg id="frames">{"".join(drawn)}</svg></svg>'


SAMPLED = graph(
    ("all", 0, 0, 100),
    ("run_until_complete (uvloop/loop.so)", 1, 0, 90),
    ("RouteSubmissions.handle (services/router/handlers.py:45)", 2, 0, 70),
    ("json_encode (msgspec/_core.so)", 3, 10, 20),
    ("malloc (libc.so.6)", 4, 12, 5),
    ("unicode_decode (libpython3.11.so.1.0)", 3, 40, 10),
    ("gc_collect_main (libpython3.11.so.1.0)", 3, 50, 15),
)


def test_a_sample_counts_for_the_innermost_named_part() -> None:
    shares = flame.shares(flame.frames(SAMPLED))
    assert shares == {
        "`services/router/handlers.py`": 0.35,  # with the interpreter's work for it
        "JSON (msgspec)": 0.2,  # with its memory allocations
        "event loop (uvloop, asyncio)": 0.2,
        "garbage collection": 0.15,
        "the interpreter, unattributed": 0.1,
    }


def test_the_parts_are_listed_in_microseconds_per_item() -> None:
    figure = Figure(name="router", unit="items/s", values=[1.0], cpu={"router": 80.0, "Kafka": 20.0})
    figure.parts = {"CEL": 0.5, "compression": 0.25, "rare": 0.001}
    assert report.parts(figure).splitlines()[2:] == [
        "| CEL | 50% | 40.0 |",
        "| compression | 25% | 20.0 |",
        "| all else | 25% | 20.0 |",
    ]


def test_the_cost_of_an_item_is_listed_by_topic_and_table() -> None:
    cost = Cost(
        topics={"piepowder.cases.eu": 145.2},
        wal=3007.4,
        tables={"inbox": (44.0, 36.0), "cases": (1409.0, 64.0)},
        batch_items=1800.0,
        statements=19.8,
    )
    figures = [Figure(name="decision", unit="cases/s", values=[1.0], cost=cost), Figure(name="b", unit="", values=[1])]
    [_, _, row] = report.costs(figures).splitlines()
    assert row == "| decision | cases.eu 145 | 3,007 | cases 1,409 + 64, inbox 44 + 36 | 1,800 | 19.8 |"
    assert report.costs(figures[1:]) == ""


def test_a_section_replaces_only_the_text_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(
        "a\n<!-- measured: router -->\nold\n<!-- end -->\nb\n<!-- measured: audit -->\nkept\n<!-- end -->\nc\n"
    )
    document.publish({"router": "new"}, page)
    document.publish({"router": "newest"}, page)
    assert page.read_text() == (
        "a\n<!-- measured: router -->\n\nnewest\n\n<!-- end -->\nb\n<!-- measured: audit -->\nkept\n<!-- end -->\nc\n"
    )
    with pytest.raises(ValueError, match="no markers for decision"):
        document.publish({"decision": "x"}, page)


def test_a_section_has_the_figures_the_costs_and_the_processor_time_of_each_part() -> None:
    figure = Figure(
        name="router", unit="items/s", values=[1.0], cpu={"router": 80.0}, mark=Mark(0.5), peak={"router": 99}
    )
    figure.parts = {"CEL": 1.0}
    section = document.section(["2 cores"], [figure])
    assert section.startswith("2 cores\n\n| figure |")
    assert "Processor time of *router*:" in section
    assert "| CEL | 100% | 80.0 |" in section
    assert "99 MB" in section


def test_the_committed_page_has_markers_for_the_stages() -> None:
    text = document.PAGE.read_text(encoding="utf-8")
    for stage in STAGES:
        assert f"<!-- measured: {stage} -->" in text


def test_lives_of_repeated_items_differ_like_lives_of_new_items() -> None:
    lives = data.more_lives(range(3_000, 3_040), tag="m")
    assert len({life.opened.key for life in lives}) == 40
    assert [life.verdict for life in lives] == [life.verdict for life in data.lives(40, tag="f")]
    assert {dict(life.opened.headers)["ce_type"] for life in lives} == {b"piepowder.case.opened.v1"}


async def test_a_peer_opens_the_same_cases_as_the_router() -> None:
    sent: list[Record] = []

    class Kept:
        async def send(self, records: list[Record]) -> None:
            sent.extend(records)

    model, policy_set = data.published()
    in_force = RulesInForce(OperatingModel(model), compile_policy_set(policy_set))
    router = RouteSubmissions(region="eu", rules=lambda: in_force, producer=Kept(), clock=SystemClock())  # type: ignore[arg-type]  # a list is a sequence
    peer = Routing()
    for life in data.lives(60, tag="p"):
        record = as_consumed(life.submitted)
        await router.handle([Received(record, router.decode(record))])
        case = peer.case(peer.read(record))
        assert (case.key, case.value) == (sent[-1].key, sent[-1].value)
        assert without_time(case.headers) == without_time(sent[-1].headers)
        assert partition(case.key, range(6), range(6)) == shared.kafka.producer.partition_of(case.key, 6)


async def test_the_floors_have_the_settings_of_the_services_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[dict[str, Any]] = []

    class Kept:
        def __init__(self, **given: Any) -> None:
            settings.append(given)

        async def start(self) -> None: ...

    monkeypatch.setattr(shared.kafka.producer, "AIOKafkaProducer", Kept)
    monkeypatch.setattr(tests.bench.kafka, "AIOKafkaProducer", Kept)
    await KafkaProducer("kafka:9092", client_id="x").start()
    tests.bench.kafka.bare_producer("kafka:9092")
    service, bare = settings
    assert bare == {name: service[name] for name in bare}


def as_consumed(event: Encoded) -> Any:
    return ConsumerRecord(
        topic="piepowder.submissions.eu",
        partition=0,
        offset=0,
        timestamp=0,
        timestamp_type=0,
        key=event.key,
        value=event.value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=tuple(event.headers),
    )


def without_time(headers: Any) -> dict[str, bytes]:
    return {name: value for name, value in headers if name != "ce_time"}
