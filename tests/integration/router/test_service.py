"""The router as a process on real Kafka: submissions in, cases out; a record that cannot be routed is dead-lettered."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from shared.contracts import ids, topics
from shared.contracts.envelope import GLOBAL, Attributes, Event, encode
from shared.contracts.events import (
    CASE_OPENED,
    ITEM_SUBMITTED,
    OPERATING_MODEL_PUBLISHED,
    CaseOpened,
    OperatingModelPublished,
    Region,
    TermHit,
)
from shared.kafka.producer import Record, record
from tests.support.router_process import RunningRouter, item, publication, ready, running_router
from tests.support.router_samples import RECEIVED_AT


@pytest.fixture
async def router(kafka: str, region: str, tmp_path: Path) -> AsyncIterator[RunningRouter]:
    """A router in its own region, waiting for its first publication."""
    async with running_router(kafka, region, tmp_path) as router:
        yield router


async def test_submissions_are_routed_when_a_policy_set_is_in_force(router: RunningRouter) -> None:
    """Promise 8, and readiness that names the missing condition."""
    state = await router.readyz()
    assert not state["ready"]
    assert "control publish`" in state["conditions"]["control"]
    await router.submit(item(1), item(2, title="Assault rifle"), item(3, title="trap"))
    response = await router.publish(publication(router.region))
    assert response.status_code == 200, response.text
    named = response.json()
    await router.wait_until(ready)

    by_subject = {event.data.subject_id: event for event in await router.cases(3)}
    assert {subject: event.data.verdict for subject, event in by_subject.items()} == {
        "1": "approve",
        "2": "review",
        "3": "review",
    }
    event = by_subject["2"]
    cause = ids.event_id(event.data.item_id, ITEM_SUBMITTED, router.region)
    trace = event.data.trace
    assert event.attributes.id == ids.event_id(cause, CASE_OPENED, f"{trace.policy_set}/{trace.operating_model}/hits")
    assert (event.attributes.causation_id, event.attributes.correlation_id) == (cause, cause)
    assert event.attributes.source == f"piepowder/router/{router.region}"
    assert event.data.case_id == ids.case_id(event.data.item_id, router.region, "item")
    assert (event.data.queue, event.data.due_at) == ("safety", "2026-05-01T10:30:00.125Z")
    assert (event.data.trace.matched, event.data.trace.held) == (["weapons"], ["weapons/0"])
    assert event.data.trace.policy_set == named["policy_set"]["id"]
    assert event.data.trace.operating_model == named["operating_model"]["id"]
    assert by_subject["3"].data.reasons == ["POLICY_ERROR"]
    metrics = (await router.http.get("/metrics")).text
    assert 'piepowder_router_policy_errors_total{policy="colour"} 1.0' in metrics
    assert f'piepowder_router_cases_total{{queue="safety",region="{router.region}",verdict="review"}} 1.0' in metrics
    assert await router.stop() == 0


async def test_a_new_policy_set_applies_to_later_submissions(router: RunningRouter) -> None:
    await router.publish(publication(router.region))
    await router.submit(item(1, title="a toaster"))
    (before,) = await router.cases(1)
    response = await router.publish(
        {"policy_set": publication(router.region, condition='title.trim() == "a toaster"')["policy_set"]}
    )
    assert response.json()["operating_model"] is None
    assert response.json()["slow_conditions"] == [{"condition": "weapons/0", "reason": "`trim`"}]
    assert "piepowder_router_slow_conditions 1.0" in (await router.http.get("/metrics")).text
    await router.submit(item(1, title="a toaster", version=2))
    *_, after = await router.cases(2)
    assert (before.data.verdict, after.data.verdict) == ("approve", "review")
    assert after.data.trace.policy_set == response.json()["policy_set"]["id"]


async def test_poison_is_dead_lettered_as_a_whole_and_other_records_are_routed(router: RunningRouter) -> None:
    """Promise 1: a record that cannot be routed is dead-lettered with its reason."""
    await router.publish(publication(router.region))
    good = router.submission(item(1))
    torn = router.submission(item(2))._replace(value=b'{"item_id": "x", "platf')
    bare = Record(good.topic, b"key", b"value", [("x-own", b"1")])
    elsewhere = router.submission(item(3, market="US"), regions=["another"])
    astray = router.submission(item(4))._replace(key=b"shop:product:5")
    await router.producer.send([torn, bare, elsewhere, good, astray, router.submission(item(6))])

    cases = await router.cases(2)
    assert {event.data.subject_id for event in cases} == {"1", "6"}
    letters = {letter.value: letter for letter in await router.read(topics.deadletters(router.region), 4)}
    for sent, reason in (
        (torn, b"truncated"),
        (bare, b"not an event of Piepowder"),
        (elsewhere, b"names the regions another"),
        (astray, b"is not its subject"),
    ):
        letter = letters[sent.value]
        assert letter.key == sent.key
        assert dict(sent.headers).items() <= letter.headers.items()
        assert reason in letter.headers["dl_reason"]
        assert letter.headers["dl_group"] == f"piepowder-router-{router.region}".encode()
        assert letter.headers["dl_topic"] == topics.submissions(router.region).encode()


async def test_a_replay_from_the_first_offset_produces_the_same_cases_with_the_same_ids(router: RunningRouter) -> None:
    """Promise 5: replays are harmless."""
    await router.publish(publication(router.region))
    await router.submit(*(item(n, title="Assault rifle" if n % 3 else "Koss") for n in range(50)))
    first = await router.cases(50)
    await router.replay(50)
    both = await router.cases(100)
    assert {event.attributes.id for event in both} == {event.attributes.id for event in first}
    assert len({msgspec.json.encode(event.data) for event in both}) == 50


async def test_submissions_stay_valid_while_their_market_moves_and_after_a_reset(router: RunningRouter) -> None:
    """Promises 1 and 5: no change of the operating model makes an accepted event invalid."""
    limited = {"id": "de", "when": ['"weapons" in terms'], "verdict": "review", "queue": "safety", "markets": ["DE"]}
    body = publication(router.region)
    body["policy_set"]["policies"] = [limited]
    [own] = body["operating_model"]["regions"]
    other = own | {"id": f"{router.region}x", "markets": ["US"]}
    body["operating_model"]["regions"].append(other)
    assert (await router.publish(body)).status_code == 200
    await router.wait_until(ready)

    def accepted(n: int) -> Record:
        one = item(n, title="Assault rifle")
        if n % 2:  # an event of a newer intake names the markets of its region
            one = msgspec.structs.replace(one, markets_by_region={router.region: ["DE"]})
        return router.submission(one)

    sent = 0
    for markets in (["FR"], ["DE", "FR"], ["FR"]):
        for _ in range(20):
            await router.producer.send([accepted(sent)])
            sent += 1
        await router.cases(1)
        moved = [own | {"markets": markets}, other | {"markets": ["US", *({"DE"} - set(markets))]}]
        assert (await router.publish({"operating_model": {"regions": moved}})).status_code == 200
    await router.producer.send([accepted(sent)])
    cases = await router.cases(sent + 1)
    assert {case.data.verdict for case in cases} == {"review"}
    assert {tuple(case.data.trace.matched) for case in cases} == {("de",)}
    queues = {case.data.subject_id: case.data.queue for case in cases}
    assert (len(queues), queues[str(sent)], set(queues.values())) == (sent + 1, "general", {"general", "safety"})

    await router.replay(sent + 1, publications=5)
    openings: dict[str, list[Event[CaseOpened]]] = {}
    for case in await router.cases(2 * (sent + 1)):
        openings.setdefault(case.data.case_id, []).append(case)
    assert len(openings) == sent + 1
    for first, second in openings.values():  # of one key, so in their order
        assert second.data.queue == "general"
        assert (first.attributes.id == second.attributes.id) == (first.data.trace == second.data.trace)
        assert first.attributes.id != second.attributes.id or first.data == second.data
    state = await router.readyz()
    assert state["ready"]
    metrics = (await router.http.get("/metrics")).text
    assert f'piepowder_parked_keys{{group="piepowder-router-{router.region}"}} 0.0' in metrics


async def test_submissions_of_a_region_that_the_model_does_not_have_wait(router: RunningRouter) -> None:
    body = publication(router.region)
    model = msgspec.convert(body["operating_model"]["regions"], list[Region])

    async def put_in_force(number: int, *regions: Region) -> None:
        data = OperatingModelPublished(
            id=f"om-{number}-x",
            number=number,
            published_by="test",
            regions=[*regions, replace(model[0], id="uk", markets=["GB"])],
        )
        about = ids.event_id(data.id, OPERATING_MODEL_PUBLISHED)
        attributes = Attributes(about, OPERATING_MODEL_PUBLISHED, "t", RECEIVED_AT, "operating-model", GLOBAL, about)
        await router.producer.send([record(router.control, encode(attributes, data))])
        async with asyncio.timeout(30):
            while (await router.in_force())["operating_model"]["number"] != number:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)

    await router.publish(body)
    await router.submit(item(1))
    await router.cases(1)
    await put_in_force(2)
    await router.submit(item(2))
    await asyncio.sleep(1)
    assert len(await router.cases(1)) == 1
    assert (await router.readyz())["ready"]
    await put_in_force(3, replace(model[0], markets=["FR"]))
    assert [case.data.subject_id for case in await router.cases(2)] == ["1", "2"]


async def test_an_invalid_publication_is_rejected_with_pointers(router: RunningRouter) -> None:
    sound = publication(router.region)
    broken = publication(router.region, condition='titel == "x"')
    broken["operating_model"]["regions"][0]["default_queue"] = "gone"
    response = await router.publish(broken)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    errors = {error["pointer"]: error["detail"] for error in response.json()["errors"]}
    assert set(errors) == {"/operating_model/regions/0/default_queue", "/policy_set/policies/0/when/0"}
    assert "undeclared reference to 'titel'" in errors["/policy_set/policies/0/when/0"]
    assert errors["/policy_set/policies/0/when/0"].endswith("^")

    misspelt = publication(router.region)
    misspelt["policy_set"]["policies"][1]["prioritty"] = 3
    misspelt["operating_model"]["regions"][0]["queues"][0]["service_level_minutes"] = "soon"
    assert {error["pointer"] for error in (await router.publish(misspelt)).json()["errors"]} == {
        "/policy_set/policies/1/prioritty",
        "/operating_model/regions/0/queues/0/service_level_minutes",
    }

    assert (await router.publish(b'{"operating_model": {"regi')).status_code == 400
    assert (await router.publish({})).status_code == 422
    assert (await router.publish([])).status_code == 422
    assert (await router.publish(b" " * (3 * 1024 * 1024))).status_code == 413
    assert (await router.http.post("/v1/control", content=b"{}")).status_code == 401
    assert (await router.publish(sound, key="reader")).status_code == 403
    headers = {"Authorization": f"Bearer {router.keys['all']}"}
    assert (await router.http.post("/v1/control", content=b"{}", headers=headers)).status_code == 415
    assert (await router.http.get("/v1/control", headers=headers)).json() == {
        "operating_model": None,
        "policy_set": None,
    }
    document = (await router.http.get("/openapi.json")).json()
    described = document["paths"]["/v1/control"]
    assert {"200", "401", "403", "413", "415", "422", "503"} <= described["post"]["responses"].keys()
    [example] = document["components"]["schemas"]["PublicationBody"]["examples"]
    example["operating_model"]["regions"][0]["id"] = router.region
    assert (await router.publish(example)).status_code == 200


async def test_a_list_with_options_is_shown_in_published_form_and_its_hits_are_in_the_case(
    router: RunningRouter,
) -> None:
    body = publication(router.region)
    body["policy_set"]["terms"]["weapons"] = {
        "phrases": ["switchblade"],
        "exceptions": ["switchblade comb"],
        "match": ["joined", "leet"],
        "examples": {"match": ["5witch-blade"], "no_match": ["switchblade comb"]},
    }
    response = await router.publish(body)
    assert response.status_code == 200, response.text
    await router.wait_until(ready)
    shown = (await router.in_force())["policy_set"]
    assert shown["terms"] == {"weapons": ["switchblade"]}
    assert shown["term_options"] == {
        "weapons": {
            "exceptions": ["switchblade comb"],
            "match": ["joined", "leet"],
            "examples": {"match": ["5witch-blade"], "no_match": ["switchblade comb"]},
        }
    }
    again = {name: shown[name] for name in ("terms", "term_options", "policies", "default_verdict")}
    assert (await router.publish({"policy_set": again})).json()["policy_set"]["changed"] is False
    await router.submit(item(1, title="A switchblade comb"), item(2, title="Fine $witch\u200b-blade"))
    cases = {event.data.subject_id: event.data.trace for event in await router.cases(2)}
    assert (cases["1"].terms, cases["1"].hits) == ({}, [])
    assert cases["2"].terms == {"weapons": "switchblade"}
    assert cases["2"].hits == [TermHit(list="weapons", phrase="switchblade", field="title", start=5, end=18)]


async def test_faults_of_a_list_have_their_places_in_the_body(router: RunningRouter) -> None:
    body = publication(router.region)
    body["policy_set"]["terms"] = {
        "weapons": {"phrases": ["assault rifle", "\u200b"], "examples": {"match": ["gun"]}},
        "plain": ["\u200b"],
    }
    places = [error["pointer"] for error in (await router.publish(body)).json()["errors"]]
    assert places == [
        "/policy_set/terms/weapons/phrases/1",
        "/policy_set/terms/plain/0",
        "/policy_set/terms/weapons/examples/match/0",
    ]
    body["policy_set"]["terms"]["weapons"]["phrases"].pop()
    body["policy_set"]["terms"]["plain"] = ["x"]
    response = await router.publish(body)
    assert response.status_code == 422
    [error] = response.json()["errors"]
    assert error["pointer"] == "/policy_set/terms/weapons/examples/match/0"
    assert response.json()["detail"].startswith(
        "Nothing was published. /policy_set/terms/weapons/examples/match/0: list"
    )
    body["policy_set"]["terms"]["weapons"]["match"] = ["fuzzy"]
    [error] = (await router.publish(body)).json()["errors"]
    assert error["pointer"] == "/policy_set/terms/weapons/match/0"
    body["policy_set"]["terms"]["weapons"]["match"] = []
    body["policy_set"]["term_options"] = {"weapons": {"match": ["leet"]}}
    [error] = (await router.publish(body)).json()["errors"]
    assert error["pointer"] == "/policy_set/term_options/weapons"
