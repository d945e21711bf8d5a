"""The open cases of a region, as its decision service reports them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.router import drain as drain_module
from services.router.drain import RegionDrain
from shared.kafka.records import RawRecord
from shared.runtime.errors import Transient

URL = "http://decision-us:8080"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("pp_test_key\n")
    return path


async def open_cases(
    key_file: Path | None, response: httpx.Response | httpx.HTTPError, decisions: Mapping[str, str] | None = None
) -> list[str]:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (str(request.url), request.headers["Authorization"]) == (f"{URL}/v1/queues", "Bearer pp_test_key")
        if isinstance(response, httpx.HTTPError):
            raise response
        return response

    drain = RegionDrain(
        lambda _: "nowhere:1",
        {"us": URL} if decisions is None else decisions,
        key_file,
        client_id="test",
        transport=httpx.MockTransport(answer),
    )
    try:
        return await drain._open_cases("us")
    finally:
        await drain.stop()


def queues(*counts: tuple[str, int, int], region: str = "us") -> httpx.Response:
    found: list[dict[str, Any]] = [
        {"queue": queue, "waiting": waiting, "claimed": claimed, "overdue": 0, "oldest_due_at": None}
        for queue, waiting, claimed in counts
    ]
    return httpx.Response(200, json={"region": region, "queues": found})


async def test_open_cases_are_counted_by_queue(key_file: Path) -> None:
    [sentence] = await open_cases(key_file, queues(("general", 3, 1), ("content", 0, 2), ("sellers", 0, 0)))
    assert sentence.startswith("6 open cases (general 4, content 2)")
    assert await open_cases(key_file, queues(("general", 0, 0))) == []
    assert await open_cases(key_file, queues()) == []


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (httpx.ConnectError("refused"), "does not respond: refused"),
        (httpx.Response(403, json={}), "returned 403"),
        (httpx.Response(503, json={}), "returned 503"),
        (httpx.Response(200, text="<html>"), "unreadable body"),
        (queues(region="eu"), "serves region 'eu', not 'us'"),
    ],
)
async def test_without_a_sound_response_the_open_cases_are_not_known(
    key_file: Path, response: httpx.Response | httpx.HTTPError, reason: str
) -> None:
    with pytest.raises(Transient, match=reason):
        await open_cases(key_file, response)


async def test_without_the_settings_a_region_cannot_leave(key_file: Path) -> None:
    [without_key] = await open_cases(None, queues())
    [without_url] = await open_cases(key_file, queues(), {})
    assert "PIEPOWDER_DECISION_BY_REGION and PIEPOWDER_DECISION_KEY_FILE" in without_key
    assert without_url == without_key


@pytest.mark.parametrize("group", ["piepowder-router", "piepowder-decision"])
async def test_parked_keys_of_each_group_on_the_path_of_an_item_are_unfinished(
    key_file: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    async def read(*_: object) -> list[RawRecord]:
        return []

    def parked(_: object, of: str) -> dict[str, int]:
        return {"shop:product:1": 7} if of == f"{group}-us" else {}

    monkeypatch.setattr(drain_module, "read_whole", read)
    monkeypatch.setattr(drain_module, "parked_keys", parked)
    drain = RegionDrain(lambda _: "nowhere:1", {"us": URL}, key_file, client_id="test")
    try:
        assert await drain._parked("us") == [
            f"1 keys of {group}-us are parked: replay them with `piepowder replay --region us`"
        ]
    finally:
        await drain.stop()


async def test_what_waits_is_read_in_the_order_of_an_items_path(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item that passes a stage after it was read is seen in the next one."""
    read: list[str] = []
    for stage in ("_unrouted", "_unstored", "_parked", "_open_cases"):

        async def note(_: RegionDrain, region: str, stage: str = stage) -> list[str]:
            read.append(stage)
            return [f"{stage} of {region}"]

        monkeypatch.setattr(RegionDrain, stage, note)
    drain = RegionDrain(lambda _: "nowhere:1", {"us": URL}, key_file, client_id="test")
    try:
        assert await drain.unfinished("us") == [f"{stage} of us" for stage in read]
    finally:
        await drain.stop()
    assert read == ["_unrouted", "_unstored", "_parked", "_open_cases"]


async def test_an_unreadable_key_is_transient(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="key for the decision service cannot be read"):
        await open_cases(tmp_path / "none", queues())
