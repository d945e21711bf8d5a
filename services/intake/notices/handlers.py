"""Taking notices and appeals in: accepted when every region's topic has acknowledged them, by the same lanes as items.

A notice stands on the operating model and Kafka alone: it keeps no row, its ids repeat, and the same again is right. An
appeal is about a decision, which is looked up in the status projection first (see
`services.intake.items.read_your_writes`). What it refuses there it refuses for what is known; of two appeals that
overtake the projection both are accepted, and the decision service, which knows for certain, closes the second.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from services.intake.items.domain import status
from services.intake.items.handlers import ItemIntake, Poster, forbidden, forbidden_platform
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.notices.domain import appeals, complaint_status, notices
from services.intake.notices.domain.appeals import AppealPost, ContestedDecision
from services.intake.notices.domain.complaint_status import APPEAL, ITEM, NOTICE, OPEN, ComplaintFacts, DecidedCase
from services.intake.publishing.regions import SOURCE
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes
from shared.contracts.events import APPEAL_SUBMITTED, NOTICE_SUBMITTED, AppealSubmitted, NoticeSubmitted
from shared.kafka.producer import Record
from shared.kafka.producer import record as to_record
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import PiepowderError, Transient
from shared.validation.codes import Codes
from shared.validation.faults import Fault, InputRejected

SPEAKS_FOR_SELLERS: Final = "items:write"
_TYPE_OF: Final = {"item_id": ITEM, "notice_id": NOTICE}


class UnknownDecision(PiepowderError):  # noqa: N818 - what the decision is
    """There is nothing of that name, in any region of the key."""


class ComplaintLookup(Protocol):
    """What is known of items, notices, appeals and decisions; see `services.intake.notices.store`."""

    async def of(self, type_: str, of: str) -> dict[str, ComplaintFacts]: ...

    async def way_of(self, type_: str, of: str) -> dict[str, status.StatusFacts]: ...

    async def about(self, decision_id: str) -> DecidedCase | None: ...

    async def appeals_about(self, decision_id: str) -> dict[str, ComplaintFacts]: ...


class PreparedComplaint(msgspec.Struct, frozen=True, gc=False):
    """A notice or an appeal, with the record for each region; accepted once Kafka has them all. `decision_id` is what
    an appeal is about."""

    id: str
    subject: str
    content_hash: str
    regions: tuple[str, ...]
    event_ids: list[str]
    records: list[Record]
    decision_id: str = ""


class Notices:
    """Takes notices in."""

    def __init__(self, intake: ItemIntake, codes: Codes, clock: Clock) -> None:
        self._intake = intake
        self._codes = codes
        self._clock = clock

    async def take(self, text: bytes, client: Poster) -> PreparedComplaint:
        """Have a notice acknowledged in every region that owns one of its markets.

        Raises InputRejected with every fault found, Overloaded when there is no room; Transient when Kafka is away or
        there is no operating model yet, after which the same again is right.
        """
        taken = self.prepare(text, client)
        await self._intake.submit([taken])
        return taken

    def prepare(self, text: bytes, client: Poster) -> PreparedComplaint:
        """The records of a notice; raises like `take`. Sends nothing."""
        ownership = self._intake.ownership
        if ownership is None:
            raise Transient("No operating model is in force yet.")
        post, faults, _ = reading = notices.FORM.read(text)
        if post is None:
            raise notices.invalid(faults)
        found = reading.with_meaning(
            fault for all_of in (notices.faults(post, self._codes), ownership.faults(post.markets)) for fault in all_of
        )
        if found:
            raise notices.invalid(found)
        if not client.may_act_for(post.platform):
            raise forbidden_platform(client, post.platform)
        regions = ownership.regions(post.markets)
        if not all(map(client.may_act_in, regions)):
            raise forbidden(ownership, client, post.markets, regions)
        subject, said = notices.subject_of(post), notices.content(post)
        submitted = NoticeSubmitted(
            notice_id=ids.notice_id(client.name, subject, post.reference),
            platform=post.platform,
            kind=post.kind,
            subject_id=post.id,
            client=client.name,
            reference=post.reference,
            content_hash=notices.content_hash(said),
            received_at=to_text(self._clock.now()),
            regions=list(regions),
            notice=said,
        )
        event_ids, records = [], []
        for region in regions:
            event_id = ids.event_id(submitted.notice_id, NOTICE_SUBMITTED, region)
            about = Attributes(event_id, NOTICE_SUBMITTED, SOURCE, submitted.received_at, subject, region, event_id)
            event_ids.append(event_id)
            records.append(to_record(topics.submissions(region), envelope.encode(about, submitted)))
        return PreparedComplaint(submitted.notice_id, subject, submitted.content_hash, regions, event_ids, records)


class Appeals:
    """Takes appeals in; `days` is how long after a decision."""

    def __init__(
        self, intake: ItemIntake, codes: Codes, *, read_your_writes: ReadYourWrites, clock: Clock, days: int
    ) -> None:
        self._intake = intake
        self._codes = codes
        self._read_your_writes = read_your_writes
        self._clock = clock
        self._days = days

    async def take(self, text: bytes, client: Poster, known: ComplaintLookup) -> PreparedComplaint:
        """Have an appeal acknowledged in the region of the decision that it is about.

        Raises InputRejected for what does not fit or cannot be heard, NotKnown when there is no such decision for the
        client, Overloaded when there is no room; Transient when the database or Kafka is away or the projection is too
        far behind to tell. After Transient the same again is right.
        """
        post, faults, _ = reading = appeals.FORM.read(text)
        if post is None or (found := reading.with_meaning(appeals.faults(post, self._codes))):
            raise appeals.invalid(faults if post is None else found)
        if post.appellant.kind == "seller" and SPEAKS_FOR_SELLERS not in client.scopes:
            raise _no_sellers(client)
        contested = await self._find(post, client, known)
        taken = self._prepare(post, contested, client)
        before = (await known.of(APPEAL, taken.id)).get(contested.region)
        if before is None or before.case.submission is None:
            await self._require_hearing(post, contested, taken.id, known)
            await self._intake.submit([taken])
            return taken
        return self._same_again(taken, before)

    async def _find(self, post: AppealPost, client: Poster, known: ComplaintLookup) -> ContestedDecision:
        """The life that holds the decision which an appeal is about."""
        name, given = appeals.named(post)
        regions = self._regions(post, client)
        what = name.removesuffix("_id")

        async def ways(type_: str, of: str) -> dict[str, status.StatusFacts]:
            found = await known.way_of(type_, of)
            return found if _may_contest(type_, found, post.appellant.kind, client) else {}

        async def look() -> ContestedDecision | None:
            if name == "decision_id":
                decided_case = await known.about(given)
                return (
                    None
                    if decided_case is None
                    else _held(decided_case, regions, await ways(decided_case.type, decided_case.id))
                )
            found = await ways(_TYPE_OF[name], given)
            told_in = sorted(status.submitted_to(found).intersection(regions) | regions.intersection(found))
            if len(told_in) > 1:
                told_in = [await self._appealed_in(told_in, status.subject(found), post, client, known)]
            return _decided(_TYPE_OF[name], given, told_in, found)

        found = await self._read_your_writes.find(
            look,
            topics=lambda region: [topics.submissions(region), topics.cases(region), topics.decisions(region)],
            regions=regions,
            doubt=f"No decision is known by {name} {given}; what was decided last is not in the status yet.",
        )
        if found is not None:
            return found
        if name != "decision_id" and not regions.isdisjoint(await ways(_TYPE_OF[name], given)):
            detail = f"{what} {given} has no decision, so there is nothing to complain about"
            raise InputRejected(409, "undecided", "There is no decision", [Fault(f"/{name}", detail)])
        may_be = " that may be appealed about" if name == "decision_id" else ""
        raise UnknownDecision(f"No {what} {given}{may_be} is known to this key, in its regions and for its platforms.")

    @staticmethod
    async def _appealed_in(
        regions: Sequence[str], subject: str, post: AppealPost, client: Poster, known: ComplaintLookup
    ) -> str:
        """The region of an appeal that was made when there was one alone; raises InputRejected when there was none."""
        for region in regions:
            before = (await known.of(APPEAL, ids.appeal_id(client.name, region, subject, post.reference))).get(region)
            way = None if before is None else before.case.submission
            if way is not None and way.content_hash == notices.content_hash(post):
                return region
        name, _ = appeals.named(post)
        detail = f"the {_TYPE_OF[name]} went to {', '.join(regions)}: say whose decision it is about"
        raise appeals.invalid([Fault("/region", detail)])

    def _regions(self, post: AppealPost, client: Poster) -> set[str]:
        """Where the decision may be; raises InputRejected for a region that is not the client's, or not served."""
        served = self._read_your_writes.regions
        if not post.region:
            return {region for region in served if client.may_act_in(region)}
        if not client.may_act_in(post.region):
            allowed = ", ".join(sorted(client.regions)) or "no region"
            detail = f"client {client.name!r} may act in {allowed}"
            raise InputRejected(
                403, "region-not-allowed", "The key may not act in this region", [Fault("/region", detail)]
            )
        if post.region not in served:
            raise appeals.invalid([Fault("/region", f"{post.region!r} is not served here: {', '.join(served)} are")])
        return {post.region}

    async def _require_hearing(
        self, post: AppealPost, contested: ContestedDecision, appeal_id: str, known: ComplaintLookup
    ) -> None:
        if refused := appeals.refusal(post, contested, self._clock.now(), self._days):
            raise refused
        decision_id, [name, _] = contested.decision.decision_id, appeals.named(post)
        for other, facts in (await known.appeals_about(decision_id)).items():
            if other == appeal_id:
                continue
            state, answer = complaint_status.status_of(facts), facts.case.decision
            if state in OPEN:
                detail = f"another appeal about decision {decision_id} is open: its answer comes first"
                raise InputRejected(409, "appeal-open", "Another appeal about it is open", [Fault(f"/{name}", detail)])
            if answer is not None and answer.action == "overturn":  # what took its place is not in the status yet
                detail = f"an appeal about decision {decision_id} has succeeded, and another takes its place: ask what"
                raise appeals.replaced(post, detail)
            if answer is not None:
                detail = f"decision {decision_id} was appealed about before, and stayed; it is not heard twice"
                raise InputRejected(
                    409, "appeal-answered", "An appeal about it was answered", [Fault(f"/{name}", detail)]
                )

    def _prepare(self, post: AppealPost, contested: ContestedDecision, client: Poster) -> PreparedComplaint:
        region, subject = contested.region, contested.life.subject
        platform, kind, subject_id = subject.split(":", 2)
        said = appeals.content(post, contested)
        submitted = AppealSubmitted(
            appeal_id=ids.appeal_id(client.name, region, subject, post.reference),
            platform=platform,
            kind=kind,
            subject_id=subject_id,
            client=client.name,
            reference=post.reference,
            content_hash=notices.content_hash(post),
            received_at=to_text(self._clock.now()),
            regions=[region],
            appeal=said,
        )
        event_id = ids.event_id(submitted.appeal_id, APPEAL_SUBMITTED, region)
        attributes = Attributes(
            event_id,
            APPEAL_SUBMITTED,
            SOURCE,
            submitted.received_at,
            subject,
            region,
            contested.first_event,
            contested.decided_by_event,
        )
        record = to_record(topics.submissions(region), envelope.encode(attributes, submitted))
        return PreparedComplaint(
            submitted.appeal_id,
            subject,
            submitted.content_hash,
            (region,),
            [event_id],
            [record],
            contested.decision.decision_id,
        )

    @staticmethod
    def _same_again(taken: PreparedComplaint, before: ComplaintFacts) -> PreparedComplaint:
        """What was answered before; raises InputRejected when that was to another appeal of the same name."""
        assert before.case.submission is not None  # noqa: S101 - it was asked
        if before.case.submission.content_hash != taken.content_hash:
            detail = "this reference names another appeal about the subject already; give this one another"
            raise InputRejected(409, "reference-used", "The reference is in use", [Fault("/reference", detail)])
        contested = before.contested
        return taken if contested is None else msgspec.structs.replace(taken, decision_id=contested.decision_id)


def _may_contest(type_: str, known: Mapping[str, status.StatusFacts], kind: str, client: Poster) -> bool:
    """Whether the client may complain about an item or a notice: for the platform's sellers, or as who gave the
    notice."""
    if not client.may_act_for(status.platform(known)):
        return False
    return kind == "seller" or type_ != NOTICE or complaint_status.is_submitted_by(client.name, known.values())


def _no_sellers(client: Poster) -> InputRejected:
    detail = (
        f"who speaks for sellers is who posts for them: client {client.name!r} lacks the scope {SPEAKS_FOR_SELLERS!r};"
        " it may appeal as the notifier of its own notices"
    )
    return InputRejected(403, "missing-scope", "The key may not do this", [Fault("/appellant/kind", detail)])


def _held(
    decided_case: DecidedCase, regions: Collection[str], known: Mapping[str, status.StatusFacts]
) -> ContestedDecision | None:
    life = known.get(decided_case.region) if decided_case.region in regions else None
    return (
        None
        if life is None or life.decision is None
        else ContestedDecision(
            region=decided_case.region, case_type=decided_case.type, about=decided_case.id, life=life
        )
    )


def _decided(
    type_: str, given: str, regions: Sequence[str], known: Mapping[str, status.StatusFacts]
) -> ContestedDecision | None:
    """The life of an item or a notice in the one region that it is told of in, if it is decided there."""
    life = known.get(regions[0]) if regions else None
    return (
        None
        if life is None or life.decision is None
        else ContestedDecision(region=regions[0], case_type=type_, about=given, life=life)
    )
