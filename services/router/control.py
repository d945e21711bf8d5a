"""What is in force, and how something else comes into force.

Operating model and policy set travel on the control topic and reach every router the same way, this one too. What is
published was checked whole before: its form, its conditions, and each against the other, the one in force standing in
for one that is not sent. Both go out in one batch, the operating model first; in between, a queue that is no more is
the default queue. Numbers only grow: a topic read again from its start does not bring an old set back into force.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import pycountry

from services.router.cel import Refused
from services.router.domain import APPROVE, REJECT, REVIEW, SOURCE, InForce, Model, PolicySet
from shared.contracts import ids
from shared.contracts.envelope import GLOBAL, Attributes, Event, encode
from shared.contracts.events import (
    OPERATING_MODEL_PUBLISHED,
    POLICY_SET_PUBLISHED,
    OperatingModelPublished,
    Policy,
    PolicySetPublished,
    Region,
    Struct,
)
from shared.contracts.topics import CONTROL
from shared.http.http import InputError, Problem
from shared.kafka.producer import Producer, record
from shared.runtime import metrics
from shared.runtime.advice import command
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Poison, Transient
from shared.runtime.settings import check_region

OPERATING_MODEL: Final = "operating-model"
POLICY_SET: Final = "policy-set"

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_NAME_SAYS: Final = "1 to 63 of a-z, 0-9 and '-', the first a letter"
_REASON: Final = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_VERDICTS: Final = (APPROVE, REVIEW, REJECT)
_COUNTRIES: Final = frozenset(country.alpha_2 for country in pycountry.countries)
E = TypeVar("E", OperatingModelPublished, PolicySetPublished)

Compile = Callable[[PolicySetPublished], PolicySet]


class PolicySetContent(msgspec.Struct, frozen=True):
    """A policy set before it is published: `PolicySetPublished` without its id and number."""

    terms: dict[str, list[str]]
    policies: list[Policy]
    default_verdict: str


class Published(msgspec.Struct, frozen=True):
    """What publishing did: the id and number in force now, and whether they are new."""

    id: str
    number: int
    changed: bool


class Now(NamedTuple):
    """What is in force at a moment; None for what is not there yet."""

    model: Model | None
    policy_set: PolicySet | None


class Control:
    """What is in force in this process; the control topic's reader applies each record to it.

    `regions` are those routed here: an operating model without one of them is not taken into force.
    """

    def __init__(self, regions: Sequence[str], compile_policy_set: Compile) -> None:
        self.model: Model | None = None
        self.policy_set: PolicySet | None = None
        self.read = False
        self.deleted: set[str] = set()
        self.regions = regions
        self.compile_policy_set = compile_policy_set
        self._complete = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def now(self) -> Now:
        """What is in force, as far as it is there."""
        return Now(self.model, self.policy_set)

    @property
    def in_force(self) -> InForce:
        """Both; raises Transient while one is missing."""
        if self.model is None or self.policy_set is None:
            raise Transient(f"Nothing is routed: {self._missing()}.")
        return InForce(self.model, self.policy_set)

    def apply(self, event: Event[Any]) -> None:
        """Take a record into force; raises Poison, and leaves the former in force, when it cannot be used."""
        data = event.data
        if isinstance(data, OperatingModelPublished):
            if self._is_old(OPERATING_MODEL, data.number, self.model):
                return
            missing = set(self.regions) - {region.id for region in data.regions}
            if missing:
                raise Poison(f"operating model {data.id} has no region {', '.join(sorted(missing))}, routed here")
            faults = model_faults(data.regions)
            if faults:
                raise Poison(f"operating model {data.id}: {_first(faults)}")
            self.model = Model(data)
        elif isinstance(data, PolicySetPublished):
            if self._is_old(POLICY_SET, data.number, self.policy_set):
                return
            faults = policy_set_faults(data)
            if faults:
                raise Poison(f"policy set {data.id}: {_first(faults)}")
            try:
                self.policy_set = self.compile_policy_set(data)
            except (Refused, ValueError) as error:
                raise Poison(f"policy set {data.id} does not compile here: {error}") from error
        else:
            return
        self.deleted.discard(event.attributes.subject)
        metrics.CONTROL_IN_FORCE.labels(event.attributes.subject).set(data.number)
        self._changed.set()
        self._changed = asyncio.Event()

    def delete(self, entity: str) -> None:
        """The topic holds an entity no more. What is in force stays in force, but is as good as any that comes next."""
        self.deleted.add(entity)

    def lacking(self) -> str | None:
        """What is not in force yet; the reader asks when it has read the topic to its end."""
        self.read = True
        missing = self._missing()
        if missing is None:
            self._complete.set()
        return missing

    async def complete(self) -> None:
        """Return when the topic has been read and both an operating model and a policy set are in force."""
        await self._complete.wait()

    async def applied(self, done: Callable[[], bool]) -> None:
        """Return when `done`, which is asked again after each change."""
        while not done():
            await self._changed.wait()

    def _is_old(self, entity: str, number: int, now: Model | PolicySet | None) -> bool:
        return now is not None and number < now.published.number and entity not in self.deleted

    def _missing(self) -> str | None:
        lacks = [
            name for name, there in (("operating model", self.model), ("policy set", self.policy_set)) if there is None
        ]
        return f"no {' and no '.join(lacks)} in force: publish with `{command('control publish')}`" if lacks else None


class Publisher:
    """Brings an operating model, a policy set or both into force, one publication at a time."""

    def __init__(self, control: Control, producer: Producer, clock: Clock, *, apply_seconds: float = 10.0) -> None:
        self._control = control
        self._producer = producer
        self._clock = clock
        self._apply_seconds = apply_seconds
        self._one_at_a_time = asyncio.Lock()

    async def publish(
        self, regions: list[Region] | None, policy_set: PolicySetContent | None, *, by: str
    ) -> tuple[Published | None, Published | None]:
        """Check what is sent, publish what differs from what is in force, and return when it is in force here.

        Raises a 422 Problem with every fault, a 503 one when it is not in force here in time, Transient when Kafka did
        not take it.
        """
        async with self._one_at_a_time:
            model, policies = self._control.model, self._control.policy_set
            deleted = self._control.deleted
            next_model = None if regions is None else _next_model(regions, model, by, OPERATING_MODEL in deleted)
            next_set = None if policy_set is None else _next_policy_set(policy_set, policies, by, POLICY_SET in deleted)
            faults = publication_faults(
                next_model, next_set, Now(model, policies), self._control.regions, self._control.compile_policy_set
            )
            if faults:
                raise unfit(faults, "Nothing was published.")
            new_model = None if next_model is None or _is(next_model, model) else next_model
            new_set = None if next_set is None or _is(next_set, policies) else next_set
            await self._send([new for new in (new_model, new_set) if new is not None])
            return (
                None if next_model is None else Published(next_model.id, next_model.number, new_model is not None),
                None if next_set is None else Published(next_set.id, next_set.number, new_set is not None),
            )

    async def _send(self, new: Sequence[OperatingModelPublished | PolicySetPublished]) -> None:
        if not new:
            return
        time = to_text(self._clock.now())
        await self._producer.send([record(CONTROL, encode(_attributes(data, time), data)) for data in new])
        wanted = {data.id for data in new}
        try:
            async with asyncio.timeout(self._apply_seconds):
                await self._control.applied(lambda: wanted <= self._ids_in_force())
        except TimeoutError as error:
            raise Problem(
                503,
                "not-in-force-yet",
                "Published, but not in force here yet",
                f"{' and '.join(sorted(wanted))} reached Kafka but not this router within {self._apply_seconds:g} s."
                " `GET /v1/control` tells what is in force; sending the same again is safe.",
                retry_after=2,
            ) from error

    def _ids_in_force(self) -> set[str]:
        return {held.id for held in (self._control.model, self._control.policy_set) if held is not None}


def unfit(faults: Sequence[InputError], outcome: str) -> Problem:
    """422: what was sent cannot come into force, with every fault; `outcome` says what became of it."""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    detail = f"{outcome} {_first(faults)}{more}"
    return Problem(422, "invalid-control", "What was sent cannot come into force", detail, errors=faults)


def publication_faults(
    model: OperatingModelPublished | None,
    policy_set: PolicySetPublished | None,
    now: Now,
    served: Sequence[str],
    compile_policy_set: Compile,
) -> list[InputError]:
    """Why an operating model, a policy set or both cannot come into force, each fault with its JSON pointer.

    Each is held against the other, the one of `now` where one is not sent; `served` are the regions that must be there.
    """
    of_model: list[InputError] = []
    of_set: list[InputError] = []
    if model is not None:
        of_model += model_faults(model.regions, pointer="/operating_model")
        missing = set(served) - {region.id for region in model.regions}
        of_model += [
            InputError("/operating_model/regions", f"region {region!r} is missing, and this router serves it")
            for region in sorted(missing)
        ]
    if policy_set is not None:
        of_set += policy_set_faults(policy_set, pointer="/policy_set")
        of_set += _compile_faults(policy_set, compile_policy_set)
    if of_model:
        return of_model + of_set
    return of_set + _joint_faults(model, policy_set, now)


def _joint_faults(
    model: OperatingModelPublished | None, policy_set: PolicySetPublished | None, now: Now
) -> list[InputError]:
    """Where what is sent does not fit together, or with what is in force."""
    if model is None:
        if now.model is None:
            return [InputError("/operating_model", "no operating model is in force: send one, with the policy set")]
        model = now.model.published
    if policy_set is not None:
        return joint_faults(model, policy_set, pointer="/policy_set")
    if now.policy_set is None:
        return []
    in_force = now.policy_set.published
    return [
        InputError("/operating_model/regions", f"policy set {in_force.id}, in force: {fault.detail}")
        for fault in joint_faults(model, in_force)
    ]


def _compile_faults(policy_set: PolicySetPublished, compile_policy_set: Compile) -> list[InputError]:
    try:
        compile_policy_set(policy_set)
    except Refused as refused:
        return [
            InputError(
                f"/policy_set/policies/{fault.policy}/when/{fault.condition}",
                f"policy {policy_set.policies[fault.policy].id!r}, condition {fault.condition}: {fault.message}",
            )
            for fault in refused.faults
        ]
    except ValueError as error:
        return [InputError("/policy_set/terms", str(error))]
    return []


def model_faults(regions: Sequence[Region], *, pointer: str = "") -> list[InputError]:
    """What is wrong with an operating model by itself, each with its JSON pointer."""
    faults: list[InputError] = []
    if not regions:
        faults.append(InputError(f"{pointer}/regions", "there is no region"))
    owner: dict[str, str] = {}
    faults += _repeats([region.id for region in regions], f"{pointer}/regions", "region")
    for r, region in enumerate(regions):
        at = f"{pointer}/regions/{r}"
        try:
            check_region(region.id)
        except ValueError as error:
            faults.append(InputError(f"{at}/id", f"{region.id!r}: {error}"))
        if region.id == GLOBAL:
            faults.append(InputError(f"{at}/id", f"{GLOBAL!r} is the name of what belongs to no region"))
        if not region.markets:
            faults.append(InputError(f"{at}/markets", f"region {region.id!r} owns no market"))
        for m, market in enumerate(region.markets):
            if market not in _COUNTRIES:
                faults.append(InputError(f"{at}/markets/{m}", _no_country(market)))
            elif market in owner:
                faults.append(
                    InputError(f"{at}/markets/{m}", f"market {market!r} is already listed for {owner[market]!r}")
                )
            owner.setdefault(market, region.id)
        faults += _repeats([queue.id for queue in region.queues], f"{at}/queues", "queue")
        for q, queue in enumerate(region.queues):
            if not _NAME.fullmatch(queue.id):
                faults.append(InputError(f"{at}/queues/{q}/id", f"{queue.id!r} is not a queue's id: {_NAME_SAYS}"))
            if not 0 < queue.service_level_minutes <= 525_600:
                faults.append(
                    InputError(
                        f"{at}/queues/{q}/service_level_minutes",
                        f"{queue.service_level_minutes} is not a service level: expected 1 minute to 525600, a year",
                    )
                )
        named = {"default_queue": region.default_queue}
        named |= {
            name: queue
            for name, queue in (("notice_queue", region.notice_queue), ("appeal_queue", region.appeal_queue))
            if queue
        }
        own = {queue.id for queue in region.queues}
        faults += [
            InputError(f"{at}/{name}", f"{queue!r} is not one of region {region.id!r}'s queues")
            for name, queue in named.items()
            if queue not in own
        ]
    return faults


def policy_set_faults(content: PolicySetPublished, *, pointer: str = "") -> list[InputError]:
    """What is wrong with a policy set by itself, but for its conditions, each with its JSON pointer."""
    faults: list[InputError] = []
    if content.default_verdict not in _VERDICTS:
        faults.append(InputError(f"{pointer}/default_verdict", _no_verdict(content.default_verdict)))
    for name, phrases in content.terms.items():
        at = f"{pointer}/terms/{name.replace('~', '~0').replace('/', '~1')}"
        if not name.strip():
            faults.append(InputError(at, "a word list needs a name"))
        faults += [
            InputError(f"{at}/{t}", f"list {name!r} has an empty phrase: write a word, or take the line out")
            for t, phrase in enumerate(phrases)
            if not phrase.strip()
        ]
    faults += _repeats([policy.id for policy in content.policies], f"{pointer}/policies", "policy")
    for p, policy in enumerate(content.policies):
        at = f"{pointer}/policies/{p}"
        if not _NAME.fullmatch(policy.id):
            faults.append(InputError(f"{at}/id", f"{policy.id!r} is not a policy's id: {_NAME_SAYS}"))
        if policy.verdict not in _VERDICTS:
            faults.append(InputError(f"{at}/verdict", _no_verdict(policy.verdict)))
        if not policy.when:
            faults.append(
                InputError(f"{at}/when", "a policy needs a condition; what holds for all is `default_verdict`")
            )
        if not 1 <= policy.priority <= 9:
            faults.append(InputError(f"{at}/priority", f"{policy.priority} is not a priority: 1 (first) to 9"))
        faults += [
            InputError(f"{at}/reasons/{r}", f"{reason!r} is not a reason code: A-Z, 0-9 and '_', the first a letter")
            for r, reason in enumerate(policy.reasons)
            if not _REASON.fullmatch(reason)
        ]
        faults += [
            InputError(f"{at}/markets/{m}", _no_country(market))
            for m, market in enumerate(policy.markets)
            if market not in _COUNTRIES
        ]
    return faults


def joint_faults(model: OperatingModelPublished, content: PolicySetPublished, *, pointer: str = "") -> list[InputError]:
    """Where a policy set does not fit an operating model, each with its JSON pointer into the set."""
    owners = {market: region for region in model.regions for market in region.markets}
    faults: list[InputError] = []
    for p, policy in enumerate(content.policies):
        at = f"{pointer}/policies/{p}"
        faults += [
            InputError(f"{at}/markets/{m}", f"policy {policy.id!r}: market {market!r} belongs to no region")
            for m, market in enumerate(policy.markets)
            if market not in owners and market in _COUNTRIES
        ]
        reached = {owners[m].id for m in policy.markets if m in owners} or {region.id for region in model.regions}
        lacking = [
            region.id
            for region in model.regions
            if region.id in reached and policy.queue and policy.queue not in {queue.id for queue in region.queues}
        ]
        if lacking:
            faults.append(
                InputError(
                    f"{at}/queue",
                    f"policy {policy.id!r}: region {', '.join(lacking)} has no queue {policy.queue!r};"
                    " add it there, or limit the policy by `markets`",
                )
            )
    return faults


def _repeats(names: Iterable[str], pointer: str, what: str) -> list[InputError]:
    seen: set[str] = set()
    faults: list[InputError] = []
    for index, name in enumerate(names):
        if name in seen:
            faults.append(InputError(f"{pointer}/{index}/id", f"{what} {name!r} is there twice"))
        seen.add(name)
    return faults


def _no_country(market: str) -> str:
    return f"{market!r} is not a market: expected ISO 3166-1 alpha-2, such as 'DE'"


def _no_verdict(verdict: str) -> str:
    return f"{verdict!r} is not a verdict: expected {', '.join(_VERDICTS)}"


def _first(faults: Sequence[InputError]) -> str:
    return f"{faults[0].pointer}: {faults[0].detail}"


def _next_model(regions: list[Region], now: Model | None, by: str, again: bool) -> OperatingModelPublished:
    named = OperatingModelPublished(id="", number=0, published_by=by, regions=regions)
    return _numbered(named, None if now is None else now.published, "om", again)


def _next_policy_set(content: PolicySetContent, now: PolicySet | None, by: str, again: bool) -> PolicySetPublished:
    named = PolicySetPublished(id="", number=0, published_by=by, **msgspec.structs.asdict(content))
    return _numbered(named, None if now is None else now.published, "ps", again)


def _numbered(content: E, now: E | None, prefix: str, again: bool) -> E:
    """`content` with its number and an id that names both; what is in force if it has the content, unless `again`."""
    if now is not None and not again and _content(now) == _content(content):
        return now
    number = 1 if now is None else now.number + 1
    name = f"{prefix}-{number}-{ids.content_hash(_content(content))[:12]}"
    return msgspec.structs.replace(content, id=name, number=number)


def _content(published: OperatingModelPublished | PolicySetPublished) -> bytes:
    return ids.canonical(msgspec.structs.replace(published, id="", number=0, published_by=""))


def _is(published: Struct, in_force: Model | PolicySet | None) -> bool:
    return in_force is not None and published is in_force.published


def _attributes(data: OperatingModelPublished | PolicySetPublished, time: str) -> Attributes:
    kind, subject = (
        (OPERATING_MODEL_PUBLISHED, OPERATING_MODEL)
        if isinstance(data, OperatingModelPublished)
        else (POLICY_SET_PUBLISHED, POLICY_SET)
    )
    event_id = ids.event_id(data.id, kind, data.number)
    return Attributes(event_id, kind, SOURCE, time, subject, GLOBAL, event_id)
