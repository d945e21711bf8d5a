"""The rules of a publication find every fault, each with its JSON pointer."""

from services.router.domain.publication import consistency_faults, operating_model_faults, policy_set_faults
from shared.contracts.events import Policy, Region
from tests.support.router_samples import operating_model, policies, region, rule


def test_every_part_of_an_operating_model_is_checked() -> None:
    broken = region(markets=["DE", "DE", "Germany"], queues=["general", "Big Queue"])
    other = region("EU", markets=["FR"])
    again = region(markets=["FR"], queues=[])
    faults = {fault.pointer: fault.detail for fault in operating_model_faults([broken, other, again])}
    assert set(faults) == {
        "/regions/0/markets/1",
        "/regions/0/markets/2",
        "/regions/0/queues/1/id",
        "/regions/0/queues/2/id",
        "/regions/1/id",
        "/regions/2/id",
        "/regions/2/markets/0",
    }
    assert "already listed for 'EU'" in faults["/regions/2/markets/0"]


def test_an_operating_model_needs_regions_markets_and_a_default_queue() -> None:
    assert [fault.pointer for fault in operating_model_faults([])] == ["/regions"]
    empty = Region(id="eu", markets=[], queues=[], default_queue="general")
    pointers = [fault.pointer for fault in operating_model_faults([empty])]
    assert pointers == ["/regions/0/markets", "/regions/0/default_queue"]
    assert operating_model_faults([region(), region("us", [])]) == []  # `us` may be draining


def test_every_part_of_a_policy_set_is_checked() -> None:
    content = policies(
        rule("Big Id", verdict="maybe", priority=0, reasons=["lower"], markets=["Germany"]),
        rule("twice"),
        rule("twice"),
        Policy(id="no-condition", when=[], verdict="review"),
        default="shrug",
        terms={"weapons": ["gun", " "]},
    )
    assert {fault.pointer for fault in policy_set_faults(content)} == {
        "/default_verdict",
        "/terms/weapons/1",
        "/policies/0/id",
        "/policies/0/verdict",
        "/policies/0/priority",
        "/policies/0/reasons/0",
        "/policies/0/markets/0",
        "/policies/2/id",
        "/policies/3/when",
    }


def test_a_policys_queue_must_exist_in_every_region_of_the_policy() -> None:
    regions = operating_model(region(), region("us", ["US"], queues=[]))
    everywhere, in_eu = rule("a", queue="safety"), rule("b", queue="safety", markets=["DE"])
    faults = consistency_faults(regions, policies(everywhere, in_eu))
    assert [fault.pointer for fault in faults] == ["/policies/0/queue"]
    nowhere = consistency_faults(regions, policies(rule("c", markets=["JP"])))
    assert [fault.pointer for fault in nowhere] == ["/policies/0/markets/0"]
