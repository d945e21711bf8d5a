"""The views of items: each client sees its own regions only."""

import msgspec
import pytest

from services.intake.items import api
from services.intake.items.domain.status import StatusFacts, SubmissionFact
from services.intake.items.views import ItemView, item_fields
from shared.http.app import create_app
from shared.http.responses import struct
from shared.runtime.readiness import Readiness
from tests.support.intake_complaints import client

ITEM = "9f6f2d1c-6f0b-5c8e-9a37-0f5d2b7c1e44"


def submitted(content_hash: str, by: str = "shop", minute: int = 0) -> StatusFacts:
    submission = SubmissionFact(
        position=0,
        version=1,
        content_hash=content_hash,
        received_at=f"2026-05-01T09:{minute:02d}:00.000Z",
        client=by,
        reference=f"{by}'s own",
    )
    return StatusFacts(subject="shop:product:B1", submission=submission, submission_last=0)


def seen(known: dict[str, StatusFacts], *regions: str, by: str = "shop") -> ItemView:
    return ItemView(**item_fields(ITEM, known, client(*regions, name=by)))


def test_other_content_in_another_region_is_a_conflict_for_clients_that_see_both_regions() -> None:
    known = {"eu": submitted("aa"), "us": submitted("bb")}
    assert seen(known, "eu", "us").conflict
    assert not seen(known, "eu").conflict
    assert not seen(known, "us").conflict
    assert not seen({"eu": submitted("aa"), "us": submitted("aa")}, "eu", "us").conflict


def test_regions_that_the_client_may_not_see_are_omitted() -> None:
    known = {"us": submitted("aa", minute=7), "eu": submitted("aa", minute=9)}
    assert seen(known, "eu").received_at == "2026-05-01T09:09:00.000Z"
    assert seen(known, "eu", "us").received_at == "2026-05-01T09:09:00.000Z"
    assert seen(known, "us").received_at == "2026-05-01T09:07:00.000Z"


def test_only_the_client_that_gave_a_reference_sees_it() -> None:
    known = {"eu": submitted("aa", by="fair"), "us": submitted("aa", by="shop")}
    assert seen(known, "eu", "us").reference == "shop's own"
    assert seen(known, "eu", "us", by="fair").reference == "fair's own"
    assert seen(known, "eu", "us", by="museum").reference == ""
    assert seen(known, "eu").reference == ""


def test_two_types_of_the_api_may_not_have_the_same_name() -> None:
    """Otherwise a generated client would decode both types as one."""

    async def respond() -> None: ...

    app = create_app("test", "A service for tests.", Readiness("test"))
    other = struct(msgspec.defstruct("ItemBody", ["code"]), {})
    app.add_api_route("/v1/other", respond, responses={200: other})
    app.include_router(api.router)
    with pytest.raises(AssertionError, match="two types of the API are named ItemBody"):
        app.openapi()
