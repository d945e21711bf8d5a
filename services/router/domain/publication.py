"""Rules for a publication: an operating model, a policy set or both, before they come into force.

All faults are reported at once, each with a JSON pointer. A new operating model must fit the policy set in force, and
a new policy set the operating model in force, so the pair in force is always consistent. Content that equals the
content in force keeps its id and number; other content gets the next number and an id of number and content hash.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

import msgspec
import pycountry

from services.router.domain.routing import (
    APPROVE,
    REJECT,
    REVIEW,
    ConditionFault,
    InvalidConditions,
    InvalidTerms,
    PolicySet,
)
from services.router.domain.term_lists import (
    publication_term_faults,
    term_faults,
    term_list_faults,
    term_size_faults,
)
from shared.contracts import ids
from shared.contracts.envelope import GLOBAL
from shared.contracts.events import OperatingModelPublished, Policy, PolicySetPublished, Region, TermOptions
from shared.validation.faults import Fault, InputRejected, RejectionType
from shared.validation.regions import check_region

INVALID_CONTROL: Final = RejectionType(
    "invalid-control",
    422,
    "Invalid publication",
    "Nothing was published. /policy_set/policies/0/queue: policy 'weapons': region eu has no queue 'safety'",
)

_ID: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_ID_FORM: Final = "1 to 63 of a-z, 0-9 and '-', the first a letter"
_REASON: Final = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_VERDICTS: Final = (APPROVE, REVIEW, REJECT)
_COUNTRIES: Final = frozenset(country.alpha_2 for country in pycountry.countries)
_MAX_SERVICE_LEVEL: Final = 525_600  # minutes: a year
_ID_PREFIX: Final = {OperatingModelPublished: "om", PolicySetPublished: "ps"}
_encode = msgspec.json.Encoder(order="deterministic").encode
_P = TypeVar("_P", OperatingModelPublished, PolicySetPublished)

ControlPart: TypeAlias = OperatingModelPublished | PolicySetPublished
CompilePolicySet: TypeAlias = Callable[[PolicySetPublished], PolicySet]


class PolicySetContent(msgspec.Struct, frozen=True):
    """A policy set before it is published: `PolicySetPublished` without id, number and publisher."""

    terms: dict[str, list[str]]
    policies: list[Policy]
    default_verdict: str
    term_options: dict[str, TermOptions] = {}


class ControlSnapshot(NamedTuple):
    """The operating model and the policy set in force at one moment; None for a part that was never published."""

    operating_model: OperatingModelPublished | None
    policy_set: PolicySetPublished | None


def rejected(faults: list[Fault], outcome: str) -> InputRejected:
    """The rejection of a publication that cannot come into force, with every fault; `outcome` states the
    consequence."""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return InputRejected(INVALID_CONTROL, faults, f"{outcome} {first_fault(faults)}{more}", limit=None)


def publication_faults(
    model: OperatingModelPublished | None,
    policy_set: PolicySetPublished | None,
    in_force: ControlSnapshot,
    served: Sequence[str],
    compile_policy_set: CompilePolicySet,
    *,
    leaving: Sequence[Fault] = (),
) -> list[Fault]:
    """All reasons why a publication cannot come into force.

    The part in force (`in_force`) replaces an omitted part. The operating model must have every region of `served`,
    except a region that leaves the model in force; `leaving` has the faults of such regions.
    """
    model_faults: list[Fault] = list(leaving)
    set_faults: list[Fault] = []
    if model is not None:
        model_faults += operating_model_faults(model.regions, pointer="/operating_model")
        model_faults += _membership_faults(model, in_force.operating_model, served)
    if policy_set is not None:
        set_faults += policy_set_faults(policy_set, pointer="/policy_set")
        reported = {fault.pointer for fault in set_faults}
        too_large = [*term_size_faults(policy_set, "/policy_set")]
        compiled = too_large or _compile_faults(policy_set, compile_policy_set)
        set_faults += [fault for fault in compiled if fault.pointer not in reported]
    if model_faults:
        return model_faults + set_faults
    return set_faults + _consistency_faults(model, policy_set, in_force)


def operating_model_faults(regions: Sequence[Region], *, pointer: str = "") -> list[Fault]:
    """Faults of an operating model by itself."""
    faults: list[Fault] = []
    if not regions:
        faults.append(Fault(f"{pointer}/regions", "there is no region"))
    owner: dict[str, str] = {}
    if not any(region.markets for region in regions):
        faults += [
            Fault(f"{pointer}/regions/{r}/markets", f"region {region.id!r} owns no market")
            for r, region in enumerate(regions)
        ]
    faults += _duplicates([region.id for region in regions], f"{pointer}/regions", "region")
    for r, region in enumerate(regions):
        faults += _region_faults(region, f"{pointer}/regions/{r}", owner)
    return faults


def policy_set_faults(content: PolicySetPublished, *, pointer: str = "") -> list[Fault]:
    """Faults of a policy set by itself, except conditions that do not compile."""
    faults: list[Fault] = []
    if content.default_verdict not in _VERDICTS:
        faults.append(Fault(f"{pointer}/default_verdict", _not_a_verdict(content.default_verdict)))
    faults += term_list_faults(content, pointer)
    faults += _duplicates([policy.id for policy in content.policies], f"{pointer}/policies", "policy")
    for p, policy in enumerate(content.policies):
        faults += _policy_faults(policy, f"{pointer}/policies/{p}")
    return faults


def consistency_faults(
    model: OperatingModelPublished, content: PolicySetPublished, *, pointer: str = ""
) -> list[Fault]:
    """Faults of a policy set under an operating model; the pointers refer to the policy set."""
    owners = {market: region for region in model.regions for market in region.markets}
    faults: list[Fault] = []
    for p, policy in enumerate(content.policies):
        at = f"{pointer}/policies/{p}"
        faults += [
            Fault(f"{at}/markets/{m}", f"policy {policy.id!r}: market {market!r} belongs to no region")
            for m, market in enumerate(policy.markets)
            if market not in owners and market in _COUNTRIES
        ]
        reached = {owners[m].id for m in policy.markets if m in owners} or {region.id for region in model.regions}
        without_queue = [
            region.id
            for region in model.regions
            if region.id in reached and policy.queue and policy.queue not in {queue.id for queue in region.queues}
        ]
        if without_queue:
            faults.append(
                Fault(
                    f"{at}/queue",
                    f"policy {policy.id!r}: region {', '.join(without_queue)} has no queue {policy.queue!r};"
                    " add it there, or limit the policy by `markets`",
                )
            )
    return faults


def leaving_regions(new: OperatingModelPublished | None, current: OperatingModelPublished | None) -> list[Region]:
    """The regions of the operating model in force that a new one leaves out."""
    if new is None or current is None:
        return []
    kept = {region.id for region in new.regions}
    return [region for region in current.regions if region.id not in kept]


def new_operating_model(regions: list[Region], *, by: str = "") -> OperatingModelPublished:
    """An operating model without id and number."""
    return OperatingModelPublished(id="", number=0, published_by=by, regions=regions)


def new_policy_set(content: PolicySetContent, *, by: str = "") -> PolicySetPublished:
    """A policy set without id and number."""
    return PolicySetPublished(id="", number=0, published_by=by, **msgspec.structs.asdict(content))


def numbered(new: _P, current: _P | None, *, deleted: bool) -> _P:
    """Give `new` the next id and number; return `current` if it has the same content and was not deleted."""
    if current is not None and not deleted and _content(current) == _content(new):
        return current
    number = 1 if current is None else current.number + 1
    name = f"{_ID_PREFIX[type(new)]}-{number}-{ids.content_hash(_content(new))[:12]}"
    return msgspec.structs.replace(new, id=name, number=number)


def first_fault(faults: Sequence[Fault]) -> str:
    """The first fault as text: `<pointer>: <detail>`."""
    return f"{faults[0].pointer}: {faults[0].detail}"


def _membership_faults(
    model: OperatingModelPublished, current: OperatingModelPublished | None, served: Sequence[str]
) -> list[Fault]:
    """Faults of the regions that a model adds, and of missing ones that were never in force."""
    before = {} if current is None else {region.id: region for region in current.regions}
    new = {region.id for region in model.regions}
    faults = [
        Fault("/operating_model/regions", f"region {region!r} is missing, and this router serves it")
        for region in sorted(set(served) - new - before.keys())
    ]
    if any(region.markets for region in model.regions):
        faults += [
            Fault(f"/operating_model/regions/{r}/markets", f"region {region.id!r} is new and owns no market")
            for r, region in enumerate(model.regions)
            if not region.markets and region.id not in before
        ]
    return faults


def _region_faults(region: Region, at: str, owner: dict[str, str]) -> list[Fault]:
    """Faults of one region; `owner` has the markets of the regions before it and receives its own."""
    faults: list[Fault] = []
    try:
        check_region(region.id)
    except ValueError as error:
        faults.append(Fault(f"{at}/id", f"{region.id!r}: {error}"))
    if region.id == GLOBAL:
        faults.append(Fault(f"{at}/id", f"{GLOBAL!r} is reserved for events without a region"))
    for m, market in enumerate(region.markets):
        if market not in _COUNTRIES:
            faults.append(Fault(f"{at}/markets/{m}", _not_a_market(market)))
        elif market in owner:
            faults.append(Fault(f"{at}/markets/{m}", f"market {market!r} is already listed for {owner[market]!r}"))
        owner.setdefault(market, region.id)
    faults += _duplicates([queue.id for queue in region.queues], f"{at}/queues", "queue")
    for q, queue in enumerate(region.queues):
        if not _ID.fullmatch(queue.id):
            faults.append(Fault(f"{at}/queues/{q}/id", f"{queue.id!r} is not a queue id: {_ID_FORM}"))
        if not 0 < queue.service_level_minutes <= _MAX_SERVICE_LEVEL:
            faults.append(
                Fault(
                    f"{at}/queues/{q}/service_level_minutes",
                    f"{queue.service_level_minutes} is not a service level:"
                    f" expected 1 to {_MAX_SERVICE_LEVEL} minutes (a year)",
                )
            )
    queues = {queue.id for queue in region.queues}
    references = {"default_queue": region.default_queue}
    optional = {"notice_queue": region.notice_queue, "appeal_queue": region.appeal_queue}
    references |= {name: queue for name, queue in optional.items() if queue}
    return faults + [
        Fault(f"{at}/{name}", f"{queue!r} is not one of region {region.id!r}'s queues")
        for name, queue in references.items()
        if queue not in queues
    ]


def _policy_faults(policy: Policy, at: str) -> list[Fault]:
    faults: list[Fault] = []
    if not _ID.fullmatch(policy.id):
        faults.append(Fault(f"{at}/id", f"{policy.id!r} is not a policy id: {_ID_FORM}"))
    if policy.verdict not in _VERDICTS:
        faults.append(Fault(f"{at}/verdict", _not_a_verdict(policy.verdict)))
    if not policy.when:
        faults.append(Fault(f"{at}/when", "a policy needs a condition; `default_verdict` applies if no policy matches"))
    if not 1 <= policy.priority <= 9:
        faults.append(Fault(f"{at}/priority", f"{policy.priority} is not a priority: expected 1 (first) to 9"))
    faults += [
        Fault(f"{at}/reasons/{r}", f"{reason!r} is not a reason code: A-Z, 0-9 and '_', the first a letter")
        for r, reason in enumerate(policy.reasons)
        if not _REASON.fullmatch(reason)
    ]
    return faults + [
        Fault(f"{at}/markets/{m}", _not_a_market(market))
        for m, market in enumerate(policy.markets)
        if market not in _COUNTRIES
    ]


def _compile_faults(policy_set: PolicySetPublished, compile_policy_set: CompilePolicySet) -> list[Fault]:
    """Faults of conditions and word lists that do not compile, and of lists that contradict their examples."""
    try:
        compiled = compile_policy_set(policy_set)
    except InvalidConditions as error:
        return _condition_faults(policy_set, error.faults)
    except InvalidTerms as error:
        return [*term_faults(error.faults, "/policy_set")]
    return [
        *_condition_faults(policy_set, compiled.condition_faults),
        *publication_term_faults(compiled, compile_policy_set, "/policy_set"),
    ]


def _condition_faults(policy_set: PolicySetPublished, faults: Iterable[ConditionFault]) -> list[Fault]:
    return [
        Fault(
            f"/policy_set/policies/{fault.policy}/when/{fault.condition}",
            f"policy {policy_set.policies[fault.policy].id!r}, condition {fault.condition}: {fault.message}",
        )
        for fault in faults
    ]


def _consistency_faults(
    model: OperatingModelPublished | None, policy_set: PolicySetPublished | None, in_force: ControlSnapshot
) -> list[Fault]:
    """Faults of the parts of a publication together, each omitted part replaced by the part in force."""
    model = model or in_force.operating_model
    if model is None:
        return [Fault("/operating_model", "no operating model is in force: send one together with the policy set")]
    if policy_set is not None:
        return consistency_faults(model, policy_set, pointer="/policy_set")
    current = in_force.policy_set
    if current is None:
        return []
    return [
        Fault("/operating_model/regions", f"policy set {current.id}, in force: {fault.detail}")
        for fault in consistency_faults(model, current)
    ]


def _duplicates(names: Iterable[str], pointer: str, kind: str) -> list[Fault]:
    seen: set[str] = set()
    faults: list[Fault] = []
    for index, name in enumerate(names):
        if name in seen:
            faults.append(Fault(f"{pointer}/{index}/id", f"{kind} {name!r} is defined more than once"))
        seen.add(name)
    return faults


def _not_a_market(market: str) -> str:
    return f"{market!r} is not a market: expected ISO 3166-1 alpha-2, such as 'DE'"


def _not_a_verdict(verdict: str) -> str:
    return f"{verdict!r} is not a verdict: expected {', '.join(_VERDICTS)}"


def _content(published: ControlPart) -> bytes:
    return _encode(msgspec.structs.replace(published, id="", number=0, published_by=""))
