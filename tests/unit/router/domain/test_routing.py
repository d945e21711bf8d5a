"""Promise 8: a decision names its policy set; the same item under the same set gives the same verdict and trace."""

import msgspec
import pytest
from msgspec.structs import replace

from services.router.domain.routing import OperatingModel, due_at, opening_id, require_region, route
from shared.contracts import ids
from shared.contracts.events import Policy, Queue, TermHit, Trace
from shared.runtime.errors import Poison, Transient
from tests.support.router_samples import (
    RECEIVED_AT,
    FixedConditions,
    compiled,
    model,
    operating_model,
    region,
    rule,
    submitted,
    with_conditions,
)


def verdict_of(*rules: Policy, default: str = "approve", markets: tuple[str, ...] = ("DE",)) -> str:
    return route(submitted(markets=markets), "eu", compiled(*rules, default=default), model()).verdict


def test_the_strictest_verdict_wins_in_any_order() -> None:
    approve, review, reject = (rule(v, verdict=v) for v in ("approve", "review", "reject"))
    assert verdict_of(approve, review, reject) == "reject"
    assert verdict_of(reject, approve) == "reject"
    assert verdict_of(approve, review) == "review"
    assert verdict_of(approve, default="reject") == "approve"


def test_without_a_matching_policy_the_default_verdict_applies() -> None:
    case = route(submitted(), "eu", compiled(rule("never", "false"), default="review"), model())
    assert (case.verdict, case.queue, case.priority, case.reasons) == ("review", "general", 5, [])


def test_all_conditions_of_a_policy_must_hold_and_the_trace_names_each_that_held() -> None:
    case = route(submitted(), "eu", compiled(rule("a", "true", "false"), rule("b", "false", "true")), model())
    assert case.verdict == "approve"
    assert (case.trace.matched, case.trace.held) == ([], ["a/0", "b/1"])
    assert (case.trace.policy_set, case.trace.operating_model) == ("ps-1-test", "om-1-test")


def test_the_policy_with_the_smallest_priority_number_sets_queue_and_priority() -> None:
    rules = [rule("late", priority=7), rule("soon", priority=2, queue="safety"), rule("as-soon", priority=2)]
    case = route(submitted(), "eu", compiled(*rules), model())
    assert (case.queue, case.priority) == ("safety", 2)


def test_among_equal_priorities_the_first_policy_sets_the_queue() -> None:
    case = route(submitted(), "eu", compiled(rule("first"), rule("second", queue="safety")), model())
    assert case.queue == "general"


def test_a_policy_with_another_verdict_does_not_set_the_queue() -> None:
    rules = [rule("reject", verdict="reject", priority=9), rule("review", priority=1, queue="safety")]
    case = route(submitted(), "eu", compiled(*rules), model())
    assert (case.verdict, case.queue, case.priority) == ("reject", "general", 9)


def test_the_default_queue_replaces_a_queue_that_the_region_does_not_have() -> None:
    case = route(submitted(), "eu", compiled(rule("a", queue="gone")), model())
    assert case.queue == "general"


def test_reasons_come_from_the_policies_with_the_winning_verdict_without_duplicates() -> None:
    rules = [
        rule("a", verdict="reject", reasons=["X", "Y"]),
        rule("b", verdict="reject", reasons=["Y", "Z"]),
        rule("c", reasons=["NOT_THIS"]),
    ]
    assert route(submitted(), "eu", compiled(*rules), model()).reasons == ["X", "Y", "Z"]


def test_a_policy_with_markets_applies_only_there() -> None:
    limited = rule("fr-only", verdict="reject", markets=["FR"])
    assert verdict_of(limited, markets=("DE",)) == "approve"
    assert verdict_of(limited, markets=("DE", "FR")) == "reject"


def test_markets_of_another_region_do_not_count_for_a_policy_with_markets() -> None:
    limited = rule("us-only", verdict="reject", markets=["US"])
    regions = model(region(), region("us", ["US"]))
    item = submitted(markets=["DE", "US"], regions=["eu", "us"], markets_by_region={"eu": ["DE"], "us": ["US"]})
    older = submitted(markets=["DE", "US"], regions=["eu", "us"])
    for one in (item, older):
        assert route(one, "eu", compiled(limited), regions).verdict == "approve"
        assert route(one, "us", compiled(limited), regions).verdict == "reject"


def test_a_policy_with_markets_applies_to_an_item_that_was_accepted_before_its_market_moved() -> None:
    limited = rule("de-only", verdict="reject", markets=["DE"])
    moved = model(region(markets=["FR"]), region("us", ["US", "DE"]))
    item = submitted(markets=["DE"], markets_by_region={"eu": ["DE"]})
    assert route(item, "eu", compiled(limited), moved).verdict == "reject"
    assert route(submitted(markets=["DE"]), "eu", compiled(limited), moved).verdict == "reject"


@pytest.mark.parametrize(
    ("regions", "markets", "eu"),
    [
        (["eu"], ["DE", "FR"], ["DE", "FR"]),  # its only region owned all of its markets
        (["eu", "us"], ["DE", "FR", "US"], ["FR"]),  # DE belongs to another region of the event now
        (["eu", "us"], ["DE", "US"], ["DE", "US"]),  # unknown: no policy is left out
        (["eu", "us"], ["JP", "US"], ["JP"]),  # no region owns it now
    ],
)
def test_the_markets_of_an_older_event_are_the_ones_that_no_other_region_of_the_event_owns(
    regions: list[str], markets: list[str], eu: list[str]
) -> None:
    moved = model(region(markets=["FR"]), region("us", ["US", "DE"]))
    assert moved.markets_of(submitted(markets=markets, regions=regions), "eu") == eu


def test_the_queue_and_the_service_level_are_those_of_the_operating_model_in_force() -> None:
    policy_set = compiled(rule("a", queue="safety"))
    item = submitted(markets=["DE"], markets_by_region={"eu": ["DE"]})
    queues = [Queue(id="general", service_level_minutes=1), Queue(id="safety", service_level_minutes=30)]
    faster, smaller = replace(region(), queues=queues), region(queues=[])
    models = [OperatingModel(operating_model(one, number=n)) for n, one in enumerate((region(), faster, smaller))]
    cases = [route(item, "eu", policy_set, one) for one in models]
    assert [(case.queue, case.due_at) for case in cases] == [
        ("safety", "2026-05-01T10:30:00.125Z"),
        ("safety", "2026-05-01T10:00:00.125Z"),
        ("general", "2026-05-02T09:30:00.125Z"),
    ]


def test_the_default_queue_replaces_the_queue_of_a_policy_whose_markets_have_left_the_region() -> None:
    policy_set = compiled(rule("a", queue="safety", markets=["DE"]), rule("b", queue="safety", priority=9))
    item = submitted(markets=["DE"], markets_by_region={"eu": ["DE"]})
    moved = OperatingModel(operating_model(region(markets=["FR"]), region("us", ["US", "DE"]), number=2))
    case = route(item, "eu", policy_set, moved)
    assert (case.queue, case.trace.matched) == ("general", ["a", "b"])
    assert route(item, "eu", policy_set, model()).queue == "safety"


def test_a_policy_with_a_failing_condition_and_no_false_condition_proposes_a_review() -> None:
    rules = [rule("a", "x", "y", verdict="reject", reasons=["A"], queue="safety", priority=2)]
    policy_set = with_conditions(rules, FixedConditions(True, False, errors={1: "no such key"}))
    case = route(submitted(), "eu", policy_set, model())
    assert (case.verdict, case.reasons, case.queue, case.priority) == ("review", ["POLICY_ERROR"], "safety", 2)
    assert (case.trace.matched, case.trace.errors) == ([], {"a/1": "no such key"})


def test_a_policy_with_a_false_condition_does_not_match_even_if_another_condition_fails() -> None:
    policy_set = with_conditions([rule("a", "x", "y")], FixedConditions(False, False, errors={1: "no such key"}))
    case = route(submitted(), "eu", policy_set, model())
    assert (case.verdict, case.trace.errors) == ("approve", {"a/1": "no such key"})


def test_a_rejection_wins_over_a_failing_condition() -> None:
    rules = [rule("a"), rule("b", verdict="reject", reasons=["B"])]
    policy_set = with_conditions(rules, FixedConditions(False, True, errors={0: "?"}))
    case = route(submitted(), "eu", policy_set, model())
    assert (case.verdict, case.reasons) == ("reject", ["B"])


def test_a_failing_condition_is_not_cached_for_the_next_item() -> None:
    policy_set = compiled(rule("a", 'attributes["colour"] == "red"', verdict="reject"))
    assert route(submitted(), "eu", policy_set, model()).verdict == "review"
    assert route(submitted(attributes={"colour": "blue"}), "eu", policy_set, model()).verdict == "approve"
    assert route(submitted(attributes={"colour": "red"}), "eu", policy_set, model()).verdict == "reject"


def test_the_due_time_is_the_time_of_receipt_plus_the_queues_service_level() -> None:
    case = route(submitted(), "eu", compiled(rule("a", queue="safety")), model())
    assert (case.received_at, case.due_at) == (RECEIVED_AT, "2026-05-01T10:30:00.125Z")


def test_the_case_id_derives_from_item_and_region() -> None:
    case = route(submitted(), "eu", compiled(), model())
    assert case.case_id == ids.case_id(case.item_id, "eu", "item")


def test_due_times_cross_days_and_years() -> None:
    assert due_at("2026-12-31T23:59:59.999Z", 1) == "2027-01-01T00:00:59.999Z"


@pytest.mark.parametrize("received_at", ["", "yesterday", "2026-05-01T09:30:00", "9999-12-31T23:59:59.000Z"])
def test_an_invalid_time_of_receipt_is_poison(received_at: str) -> None:
    with pytest.raises(Poison, match="received_at"):
        due_at(received_at, 60)


def test_an_item_is_routed_in_the_regions_that_its_event_names_whatever_they_own_now() -> None:
    for one in (submitted(markets=["US"]), submitted(markets=["US"], markets_by_region={"eu": ["US"]})):
        assert route(one, "eu", compiled(), model(region(), region("us", ["US"]))).queue == "general"


def test_an_event_that_does_not_name_the_region_of_its_topic_is_poison() -> None:
    require_region(submitted(regions=["us", "eu"]), "eu")
    with pytest.raises(Poison, match="names the regions us, not 'eu'"):
        require_region(submitted(regions=["us"]), "eu")


def test_a_region_that_is_not_in_the_operating_model_waits() -> None:
    with pytest.raises(Transient, match="no region 'uk'"):
        route(submitted(), "uk", compiled(), model())


def test_the_id_of_an_opening_depends_on_its_cause_its_type_and_the_rules() -> None:
    def of(cause: str, kind: str, policy_set: str, model_id: str) -> str:
        return opening_id(cause, kind, Trace(policy_set=policy_set, operating_model=model_id))

    parts = [
        ("c", "t", "p", "o"),
        ("d", "t", "p", "o"),
        ("c", "u", "p", "o"),
        ("c", "t", "q", "o"),
        ("c", "t", "p", "n"),
    ]
    assert len({of(*each) for each in parts}) == 5
    assert of("c", "t", "p", "o") == ids.event_id("c", "t", "p/o")


def test_only_an_opening_with_hits_in_its_trace_has_another_id_than_before_this_field() -> None:
    trace = Trace(policy_set="p", operating_model="o", matched=["weapons"], held=["weapons/0"])
    assert opening_id("c", "t", trace) == ids.event_id("c", "t", "p/o")
    hits = [TermHit(list="weapons", phrase="gun", field="title", start=at, end=at + 3) for at in range(2)]
    first, second = (opening_id("c", "t", replace(trace, terms={"weapons": "gun"}, hits=[hit])) for hit in hits)
    assert first == second == ids.event_id("c", "t", "p/o/hits"), "the rules and the cause fix the hits"


def test_the_trace_names_the_term_that_each_list_found() -> None:
    rules = [rule("a", '"weapons" in terms', verdict="reject"), rule("b", '"knives" in terms')]
    terms = {"weapons": ["gun", "hand grenade"], "knives": ["blade"], "unused": ["lamp"]}
    policy_set = compiled(*rules, terms=terms)
    found = {
        title: route(submitted(title=title), "eu", policy_set, model()).trace
        for title in ("A Hand  GRENADE and a gun", "hand grenade", "Lamp with a blade", "nothing", "gun lamp")
    }
    assert [trace.terms for trace in found.values()] == [
        {"weapons": "gun"},
        {"weapons": "hand grenade"},
        {"knives": "blade", "unused": "lamp"},
        {},
        {"unused": "lamp", "weapons": "gun"},
    ]
    assert [trace.matched for trace in found.values()] == [["a"], ["a"], ["b"], [], ["a"]]


def test_the_same_item_gives_the_same_bytes_from_sets_that_were_compiled_separately() -> None:
    rules = [rule("a", '"weapons" in terms', verdict="reject"), rule("b", '"knives" in terms && "brands" in terms')]
    terms = {"weapons": ["gun", "ѕwitchblade"], "knives": ["blade", "切れ味"], "brands": ["Rolex"]}
    item = submitted(title="A GUN\u200b, a switchblade, ROLEX", text="切れ味 Blade gun rolex " * 30)
    cases = [msgspec.json.encode(route(item, "eu", compiled(*rules, terms=terms), model())) for _ in range(3)]
    assert len({*cases}) == 1
    trace = msgspec.json.decode(cases[0])["trace"]
    assert trace["matched"] == ["a", "b"]
    assert [hit for hit in trace["hits"] if hit["field"] == "title"] == [
        {"list": "brands", "phrase": "Rolex", "field": "title", "start": 23, "end": 28},
        {"list": "weapons", "phrase": "gun", "field": "title", "start": 2, "end": 6},
        {"list": "weapons", "phrase": "ѕwitchblade", "field": "title", "start": 10, "end": 21},
    ]


def test_a_cached_outcome_is_not_used_under_another_operating_model() -> None:
    policy_set = compiled(rule("a", queue="safety"))
    one = route(submitted(), "eu", policy_set, model())
    without = model(region(queues=[]))
    without.id = "om-2-test"
    other = route(submitted(), "eu", policy_set, without)
    assert (one.queue, other.queue, other.trace.operating_model) == ("safety", "general", "om-2-test")


def test_a_failing_and_a_matching_policy_of_equal_priority_keep_the_sets_order() -> None:
    rules = [rule("failing", queue="safety"), rule("matching", reasons=["M"])]
    policy_set = with_conditions(rules, FixedConditions(False, True, errors={0: "?"}))
    case = route(submitted(), "eu", policy_set, model())
    assert (case.queue, case.reasons) == ("safety", ["POLICY_ERROR", "M"])


def test_a_policy_without_conditions_matches_every_item_of_its_markets() -> None:
    always = Policy(id="always", when=[], verdict="review", queue="safety")
    limited = Policy(id="limited", when=[], verdict="reject", markets=["FR"])
    policy_set = with_conditions([rule("a", "x"), always, limited], FixedConditions(False))
    cases = [route(submitted(markets=[market]), "eu", policy_set, model()) for market in ("DE", "FR")]
    assert [(case.verdict, case.trace.matched) for case in cases] == [
        ("review", ["always"]),
        ("reject", ["always", "limited"]),
    ]


def test_a_policy_matches_only_if_its_later_conditions_hold_too() -> None:
    rules = [rule("a", "x", "y", verdict="reject"), rule("b", "z")]
    for held, matched in (((True, False, True), ["b"]), ((False, True, False), []), ((True, True, True), ["a", "b"])):
        case = route(submitted(), "eu", with_conditions(rules, FixedConditions(*held)), model())
        assert case.trace.matched == matched
