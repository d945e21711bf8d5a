"""The router's REST API: show, publish and check the operating model and the policy set in force.

The models here check the form of a publication; `domain.publication` checks its meaning. Every fault of a publication
has the problem type `invalid-control`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Security
from fastapi.exceptions import RequestValidationError
from pydantic import Discriminator, Field, Tag
from starlette.requests import Request
from starlette.responses import Response

from services.router.control import ControlState
from services.router.domain.differences import ControlDifference
from services.router.domain.publication import INVALID_CONTROL, PolicySetContent
from services.router.handlers.check import CheckPublication, TooManyChecks
from services.router.handlers.publication import ConflictingPublication, NotYetInForce, PublishControl
from shared.auth.api_key import PROTECTED, api_key
from shared.auth.principal import Principal
from shared.auth.refusals import RATE_LIMITED
from shared.contracts.events import OperatingModelPublished, PolicySetPublished, Region, TermOptions
from shared.contracts.policy_documents import published_form
from shared.http.input_errors import rejection
from shared.http.models import Body, Embedded, View, example
from shared.http.problems import NOT_READY, OVERLOADED, ProblemType, problem_of, problems
from shared.http.route import Available, StrictRoute
from shared.validation.faults import INVALID_REQUEST, InputRejected, pointer_to

MAX_BYTES: Final = 2 * 1024 * 1024
_MAX_DIFFERENCES: Final = 200
_MAX_SLOW_CONDITIONS: Final = 200
_SLOW_CONDITIONS: Final = (
    "The first 200 conditions of the policy set that only CEL can evaluate; each costs as much as tens of others"
)
_PLACE: Final = re.compile(r"/policy_set/\S+(?=:)")

NOT_YET_IN_FORCE: Final = ProblemType(
    "not-in-force-yet",
    503,
    "Published, but not yet in force here",
    "ps-2-5f4e3d2c1b0a reached Kafka but not this router within 10 s.",
)

PUBLICATION_CONFLICT: Final = ProblemType(
    "publication-conflict",
    409,
    "Another publication came first",
    "ps-2-5f4e3d2c1b0a did not come into force: another router has published at the same time.",
)

_MODEL_EXAMPLE: Final = {
    "regions": [
        {
            "id": "eu",
            "title": "European Union",
            "markets": ["DE", "FR"],
            "queues": [{"id": "general", "title": "General", "service_level_minutes": 1440}],
            "default_queue": "general",
        }
    ]
}
_SET_EXAMPLE: Final = {
    "terms": {
        "weapons": ["assault rifle", "sturmgewehr"],
        "knives": {
            "phrases": ["hunting knife"],
            "exceptions": ["hunting knife sharpener"],
            "match": ["inflection", "joined"],
            "examples": {"match": ["Two hunting-knives"], "no_match": ["Hunting knife sharpener"]},
        },
    },
    "policies": [
        {
            "id": "weapons",
            "title": "Weapons are forbidden",
            "when": ['kind == "product"', '"weapons" in terms'],
            "verdict": "reject",
            "reasons": ["WEAPONS"],
        }
    ],
    "default_verdict": "approve",
}
_SHOWN_SET_EXAMPLE: Final = _SET_EXAMPLE | {
    "terms": {"weapons": ["assault rifle", "sturmgewehr"], "knives": ["hunting knife"]},
    "term_options": {
        "knives": {
            "exceptions": ["hunting knife sharpener"],
            "match": ["inflection", "joined"],
            "examples": {"match": ["Two hunting-knives"], "no_match": ["Hunting knife sharpener"]},
        }
    },
}
_STAMP_EXAMPLE: Final = {"id": "om-1-0a1b2c3d4e5f", "number": 1, "published_by": "policy-team"}


class QueueBody(Body):
    id: str = Field(description="1 to 63 of a-z, 0-9 and '-'; unique in its region")
    title: str = Field("", max_length=200)
    service_level_minutes: int = Field(description="Time from receipt of an item to its decision")


class RegionBody(Body):
    id: str = Field(description="1 to 31 of a-z, 0-9 and '-'")
    title: str = Field("", max_length=200)
    markets: list[str] = Field(
        max_length=300,
        description="ISO 3166-1 alpha-2; each in one region only. Empty for a region that will leave the model",
    )
    queues: list[QueueBody] = Field(max_length=200)
    default_queue: str = Field(description="Queue of cases for which no policy sets a queue")
    notice_queue: str = Field("", description="Queue of notices; the default queue if empty")
    appeal_queue: str = Field("", description="Queue of appeals; the default queue if empty")


class OperatingModelBody(Body):
    regions: list[RegionBody] = Field(max_length=100)


class OperatingModelDiffBody(Body):
    regions: list[RegionBody] = Field(
        min_length=1, max_length=100, description="New and changed regions, each complete; the others stay as they are"
    )


class PolicyBody(Body):
    id: str = Field(description="1 to 63 of a-z, 0-9 and '-'; unique in the set")
    title: str = Field("", max_length=200)
    when: list[str] = Field(max_length=50, description="Conditions in CEL, each true or false; all must hold")
    verdict: str = Field(description="approve, review or reject; the strictest verdict of the matching policies wins")
    reasons: list[str] = Field(default=[], max_length=20, description="Codes such as WEAPONS")
    queue: str = Field("", description="Queue of the case; the region's default queue if empty")
    priority: int = Field(5, description="1 (first) to 9")
    markets: list[str] = Field(
        default=[], max_length=300, description="The policy applies to items offered there; to all items if empty"
    )


MatchOption = Literal["inflection", "joined", "spaced", "leet", "prefixes", "accents"]
PatternName = Literal["email", "phone", "iban"]


class TermExamplesBody(Body):
    match: list[str] = Field(default=[], max_length=200, description="Texts in which the list must find a phrase")
    no_match: list[str] = Field(default=[], max_length=200, description="Texts in which it must find none")


class TermOptionsBody(Body):
    exceptions: list[str] = Field(
        default=[], max_length=5000, description="Longer phrases in which a phrase of the list does not count"
    )
    match: list[MatchOption] = Field(default=[], max_length=6, description="Other spellings that count")
    patterns: list[PatternName] = Field(default=[], max_length=3, description="Personal data that counts")
    examples: TermExamplesBody | None = Field(None, description="Checked at publication")


class TermListBody(TermOptionsBody):
    phrases: Annotated[list[str], Field(fail_fast=True)]


PlainOrWithOptions = Annotated[
    Annotated[list[str], Field(fail_fast=True), Tag("phrases")] | Annotated[TermListBody, Tag("options")],
    Discriminator(lambda value: "options" if isinstance(value, dict | TermListBody) else "phrases"),
]


class PolicySetBody(Body):
    terms: dict[str, PlainOrWithOptions] = Field(
        default={}, description="Word lists by name, found in title and text: phrases, or an object with options"
    )
    term_options: dict[str, TermOptionsBody] = Field(
        default={}, description="Options of lists that are given by phrases only: the form in which a set is shown"
    )
    policies: list[PolicyBody] = Field(max_length=1000)
    default_verdict: str = Field(description="approve, review or reject; applies if no policy matches")


class PublicationBody(Body):
    operating_model: OperatingModelBody | None = None
    policy_set: PolicySetBody | None = None

    model_config = example({"operating_model": _MODEL_EXAMPLE, "policy_set": _SET_EXAMPLE})


class CheckBody(Body):
    operating_model: OperatingModelBody | None = None
    policy_set: PolicySetBody | None = None
    operating_model_diff: OperatingModelDiffBody | None = None

    model_config = example({"operating_model_diff": _MODEL_EXAMPLE, "policy_set": _SET_EXAMPLE})


class ControlView(View):
    """The operating model and the policy set in force; null for a part that was never published."""

    operating_model: Annotated[OperatingModelPublished, Embedded()] | None
    policy_set: Annotated[PolicySetPublished, Embedded()] | None

    model_config = example(
        {
            "operating_model": {**_STAMP_EXAMPLE, **_MODEL_EXAMPLE},
            "policy_set": {**_STAMP_EXAMPLE, "id": "ps-1-5f4e3d2c1b0a", **_SHOWN_SET_EXAMPLE},
        }
    )


class PublishedPartView(View):
    id: str
    number: int
    changed: bool = Field(description="False if it was in force before")


class SlowConditionView(View):
    condition: str = Field(description="Its name in traces: policy and index")
    reason: str = Field(description="The construct that makes it slow")


class PublicationView(View):
    """The published parts, in force now; null for an omitted part."""

    operating_model: PublishedPartView | None
    policy_set: PublishedPartView | None
    slow_conditions: list[SlowConditionView] = Field(default=[], description=_SLOW_CONDITIONS)

    model_config = example(
        {
            "operating_model": {"id": "om-1-0a1b2c3d4e5f", "number": 1, "changed": False},
            "policy_set": {"id": "ps-2-5f4e3d2c1b0a", "number": 2, "changed": True},
            "slow_conditions": [],
        }
    )


class IdsInForceView(View):
    """The ids of the parts in force that the check compared with; null for a part that is not in force."""

    operating_model: str | None
    policy_set: str | None


class DifferenceView(View):
    what: str
    how: str = Field(description="added, removed, changed or reordered")


class PartDifferencesView(View):
    changed: bool
    differing: int = Field(description="Number of all differences")
    differences: list[DifferenceView] = Field(description="The first 200 differences")


class CheckView(View):
    """The differences of a publication that can come into force; null for an omitted part."""

    in_force: IdsInForceView
    operating_model: PartDifferencesView | None
    policy_set: PartDifferencesView | None
    slow_conditions: list[SlowConditionView] = Field(default=[], description=_SLOW_CONDITIONS)

    model_config = example(
        {
            "in_force": {"operating_model": "om-1-0a1b2c3d4e5f", "policy_set": "ps-1-5f4e3d2c1b0a"},
            "operating_model": {"changed": False, "differing": 0, "differences": []},
            "policy_set": {
                "changed": True,
                "differing": 1,
                "differences": [{"what": "policies/weapons", "how": "added"}],
            },
            "slow_conditions": [{"condition": "weapons/1", "reason": "`trim`"}],
        }
    )


router: Final = APIRouter(prefix="/v1/control", route_class=StrictRoute, responses=PROTECTED)
available_control: Available[ControlState] = Available("control")
available_publisher: Available[PublishControl] = Available("publisher")
available_checker: Available[CheckPublication] = Available("checker")

Reader = Annotated[Principal, Security(api_key, scopes=["control:read"])]
PolicyOwner = Annotated[Principal, Security(api_key, scopes=["control:publish"])]
TheControl = Annotated[ControlState, Depends(available_control)]
ThePublisher = Annotated[PublishControl, Depends(available_publisher)]
TheChecker = Annotated[CheckPublication, Depends(available_checker)]


@router.get("", summary="Operating model and policy set in force")
async def show(_: Reader, control: TheControl) -> ControlView:
    return ControlView.model_validate(control.snapshot)


@router.post(
    "",
    summary="Publish an operating model, a policy set or both",
    description="First checks each part, and both parts together (the part in force replaces an omitted part)."
    " Content that equals the content in force is not published again. A region of the operating model in force can be"
    " left out only if it owns no market there and nothing waits in it any more: the errors name its unrouted"
    " submissions, parked keys and open cases. The response is sent when the publication is in force in this process."
    " If another router has published at the same time, the first publication is in force everywhere, and the other one"
    " gets 409: compare it with the parts in force, and send it again. A body has at most 2 MiB.",
    responses=problems(INVALID_REQUEST, INVALID_CONTROL, PUBLICATION_CONFLICT, NOT_READY, NOT_YET_IN_FORCE),
    max_body_size=MAX_BYTES,
)
async def publish(
    caller: PolicyOwner, control: TheControl, publisher: ThePublisher, body: PublicationBody
) -> PublicationView:
    _require_part(body)
    new = {region.id for region in body.operating_model.regions} if body.operating_model else set()
    current = control.operating_model.regions if control.operating_model else ()
    for region in [*sorted(new), *sorted(current)]:
        caller.require_region(region)
    try:
        with _places_as_written(body.policy_set):
            model, policy_set = await publisher.publish(
                _regions(body.operating_model), _content(body.policy_set), by=caller.name
            )
    except ConflictingPublication as error:
        raise PUBLICATION_CONFLICT(str(error)) from error
    except NotYetInForce as error:
        raise NOT_YET_IN_FORCE(str(error), retry_after=2) from error
    in_force = control.policy_set
    is_in_force = policy_set is not None and in_force is not None and in_force.id == policy_set.id
    slow = _slow(in_force.slow_conditions) if in_force is not None and is_in_force else []
    found = {"operating_model": model, "policy_set": policy_set, "slow_conditions": slow}
    return PublicationView.model_validate(found, from_attributes=True)


@router.post(
    "/check",
    summary="Check a publication and show its differences",
    description="Checks a publication against the parts in force; nothing is published. In place of a complete"
    " operating model, `operating_model_diff` can have only the new and changed regions, each complete. A body has at"
    " most 2 MiB.",
    responses=problems(INVALID_REQUEST, INVALID_CONTROL, RATE_LIMITED, OVERLOADED),
    max_body_size=MAX_BYTES,
)
async def check(_: Reader, checker: TheChecker, body: CheckBody) -> CheckView:
    _require_part(body)
    if body.operating_model and body.operating_model_diff:
        detail = "Send `operating_model` or `operating_model_diff`, not both."
        raise INVALID_CONTROL.with_message(detail, "/operating_model_diff")
    try:
        with _places_as_written(body.policy_set):
            result = await checker.check(
                _regions(body.operating_model), _regions(body.operating_model_diff), _content(body.policy_set)
            )
    except TooManyChecks as error:
        raise OVERLOADED(str(error), retry_after=2) from error
    return CheckView(
        in_force=IdsInForceView(
            operating_model=result.in_force.operating_model and result.in_force.operating_model.id,
            policy_set=result.in_force.policy_set and result.in_force.policy_set.id,
        ),
        operating_model=_part(result.operating_model),
        policy_set=_part(result.policy_set),
        slow_conditions=_slow(result.slow_conditions),
    )


def include_routes(app: FastAPI) -> None:
    """Add the routes, and `invalid-control` as the problem type of a body with faults."""
    app.include_router(router)
    app.add_exception_handler(RequestValidationError, _on_invalid)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type only
    return problem_of(rejection(error, INVALID_CONTROL)).response()


def _slow(conditions: Mapping[str, str]) -> list[SlowConditionView]:
    slow = [SlowConditionView(condition=name, reason=reason) for name, reason in conditions.items()]
    return slow[:_MAX_SLOW_CONDITIONS]


def _part(differences: Sequence[ControlDifference] | None) -> PartDifferencesView | None:
    if differences is None:
        return None
    first = [DifferenceView(what=one.what, how=one.how) for one in differences[:_MAX_DIFFERENCES]]
    return PartDifferencesView(changed=bool(differences), differing=len(differences), differences=first)


def _require_part(body: PublicationBody | CheckBody) -> None:
    if not body.model_dump(exclude_none=True):
        names = " or ".join(f"`{name}`" for name in type(body).model_fields)
        raise INVALID_CONTROL.with_message(f"The publication is empty: send {names}.", "")


def _regions(body: OperatingModelBody | OperatingModelDiffBody | None) -> list[Region] | None:
    return None if body is None else msgspec.convert(body.model_dump()["regions"], list[Region])


def _content(body: PolicySetBody | None) -> PolicySetContent | None:
    if body is None:
        return None
    for name in sorted(_with_options(body) & body.term_options.keys()):
        detail = f"list {name!r} has its options in `terms` already: remove them here or there"
        raise INVALID_CONTROL.with_message(detail, pointer_to("/policy_set/term_options", name))
    content = msgspec.convert(published_form(body.model_dump()), PolicySetContent)
    stated = {name: options for name, options in content.term_options.items() if options != TermOptions()}
    return msgspec.structs.replace(content, term_options=stated)


def _with_options(body: PolicySetBody | None) -> set[str]:
    """The lists that the body gives as objects."""
    return set() if body is None else {name for name, given in body.terms.items() if isinstance(given, TermListBody)}


@contextmanager
def _places_as_written(body: PolicySetBody | None) -> Iterator[None]:
    """Replace places in published sets, where options are beside the lists, by places in the body."""
    try:
        yield
    except InputRejected as error:
        names = {pointer_to("", name) for name in _with_options(body)}
        error.faults[:] = [fault._replace(pointer=_as_written(fault.pointer, names)) for fault in error.faults]
        error.args = (_PLACE.sub(lambda found: _as_written(found[0], names), str(error)),)
        raise


def _as_written(pointer: str, names: set[str]) -> str:
    for part, steps in (("terms", "/phrases"), ("term_options", "")):
        for name in names:
            start = f"/policy_set/{part}{name}/"
            if pointer.startswith(start):
                return f"/policy_set/terms{name}{steps}/{pointer.removeprefix(start)}"
    return pointer
