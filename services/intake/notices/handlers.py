"""Taking notices and appeals in: accepted when every region's topic has acknowledged them, by the same lanes as items.

A notice stands on the operating model and Kafka alone: it keeps no row, its ids repeat, and the same again is right. An
appeal is about a decision, which is looked up in the status projection first (see `services.intake.catching_up`). What
it refuses there it refuses for what is known; of two appeals that overtake the projection both are accepted, and the
decision service, which knows for certain, closes the second.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from services.intake.catching_up import CatchingUp
from services.intake.domain import status
from services.intake.domain.faults import Fault
from services.intake.domain.posts import Codes, Refused
from services.intake.handlers import SOURCE, Front, Poster, forbidden, forbidden_platform
from services.intake.notices.domain import appeals, lives, notices
from services.intake.notices.domain.appeals import AppealPost, Disputed
from services.intake.notices.domain.lives import APPEAL, ITEM, NOTICE, OPEN, Facts, Place
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes
from shared.contracts.events import APPEAL_SUBMITTED, NOTICE_SUBMITTED, AppealSubmitted, NoticeSubmitted
from shared.kafka.producer import Record
from shared.kafka.producer import record as to_record
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import PiepowderError, Transient

SPEAKS_FOR_SELLERS: Final = "items:write"
_TYPE_OF: Final = {"item_id": ITEM, "notice_id": NOTICE}


class NotKnown(PiepowderError):  # noqa: N818 - what the decision is
    """There is nothing of that name, in any region of the key."""


class Known(Protocol):
    """What is known of items, notices, appeals and decisions; see `services.intake.notices.store`."""

    async def of(self, type_: str, of: str) -> dict[str, Facts]: ...

    async def way_of(self, type_: str, of: str) -> dict[str, status.Facts]: ...

    async def about(self, decision_id: str) -> Place | None: ...

    async def appeals_about(self, decision_id: str) -> dict[str, Facts]: ...


class Taken(msgspec.Struct, frozen=True, gc=False):
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

    def __init__(self, front: Front, codes: Codes, clock: Clock) -> None:
        self._front = front
        self._codes = codes
        self._clock = clock

    async def take(self, text: bytes, client: Poster) -> Taken:
        """Have a notice acknowledged in every region that owns one of its markets.

        Raises Refused with every fault found, Overloaded when there is no room; Transient when Kafka is away or there
        is no operating model yet, after which the same again is right.
        """
        taken = self.prepare(text, client)
        await self._front.submit([taken])
        return taken

    def prepare(self, text: bytes, client: Poster) -> Taken:
        """The records of a notice; raises like `take`. Sends nothing."""
        ownership = self._front.ownership
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
        return Taken(submitted.notice_id, subject, submitted.content_hash, regions, event_ids, records)


class Appeals:
    """Takes appeals in; `days` is how long after a decision."""

    def __init__(self, front: Front, codes: Codes, *, catching_up: CatchingUp, clock: Clock, days: int) -> None:
        self._front = front
        self._codes = codes
        self._catching_up = catching_up
        self._clock = clock
        self._days = days

    async def take(self, text: bytes, client: Poster, known: Known) -> Taken:
        """Have an appeal acknowledged in the region of the decision that it is about.

        Raises Refused for what does not fit or cannot be heard, NotKnown when there is no such decision for the client,
        Overloaded when there is no room; Transient when the database or Kafka is away or the projection is too far
        behind to tell. After Transient the same again is right.
        """
        post, faults, _ = reading = appeals.FORM.read(text)
        if post is None or (found := reading.with_meaning(appeals.faults(post, self._codes))):
            raise appeals.invalid(faults if post is None else found)
        if post.appellant.kind == "seller" and SPEAKS_FOR_SELLERS not in client.scopes:
            raise _no_sellers(client)
        disputed = await self._find(post, client, known)
        taken = self._prepare(post, disputed, client)
        before = (await known.of(APPEAL, taken.id)).get(disputed.region)
        if before is None or before.way.submission is None:
            await self._require_hearing(post, disputed, taken.id, known)
            await self._front.submit([taken])
            return taken
        return self._same_again(taken, before)

    async def _find(self, post: AppealPost, client: Poster, known: Known) -> Disputed:
        """The life that holds the decision which an appeal is about."""
        name, given = appeals.named(post)
        regions = self._regions(post, client)
        what = name.removesuffix("_id")

        async def ways(type_: str, of: str) -> dict[str, status.Facts]:
            found = await known.way_of(type_, of)
            return found if _may_contest(type_, found, post.appellant.kind, client) else {}

        async def look() -> Disputed | None:
            if name == "decision_id":
                place = await known.about(given)
                return None if place is None else _held(place, regions, await ways(place.type, place.id))
            found = await ways(_TYPE_OF[name], given)
            told_in = sorted(status.submitted_to(found).intersection(regions) | regions.intersection(found))
            if len(told_in) > 1:
                told_in = [await self._appealed_in(told_in, status.subject(found), post, client, known)]
            return _decided(_TYPE_OF[name], given, told_in, found)

        found = await self._catching_up.find(
            look,
            topics=lambda region: [topics.submissions(region), topics.cases(region), topics.decisions(region)],
            regions=regions,
            doubt=f"No decision is known by {name} {given}; what was decided last is not in the status yet.",
        )
        if found is not None:
            return found
        if name != "decision_id" and not regions.isdisjoint(await ways(_TYPE_OF[name], given)):
            detail = f"{what} {given} has no decision, so there is nothing to complain about"
            raise Refused(409, "undecided", "There is no decision", [Fault(f"/{name}", detail)])
        may_be = " that may be appealed about" if name == "decision_id" else ""
        raise NotKnown(f"No {what} {given}{may_be} is known to this key, in its regions and for its platforms.")

    @staticmethod
    async def _appealed_in(regions: Sequence[str], subject: str, post: AppealPost, client: Poster, known: Known) -> str:
        """The region of an appeal that was made when there was one alone; raises Refused when there was none."""
        for region in regions:
            before = (await known.of(APPEAL, ids.appeal_id(client.name, region, subject, post.reference))).get(region)
            way = None if before is None else before.way.submission
            if way is not None and way.content_hash == appeals.content_hash(post):
                return region
        name, _ = appeals.named(post)
        detail = f"the {_TYPE_OF[name]} went to {', '.join(regions)}: say whose decision it is about"
        raise appeals.invalid([Fault("/region", detail)])

    def _regions(self, post: AppealPost, client: Poster) -> set[str]:
        """Where the decision may be; raises Refused for a region that is not the client's, or not served."""
        served = self._catching_up.regions
        if not post.region:
            return {region for region in served if client.may_act_in(region)}
        if not client.may_act_in(post.region):
            allowed = ", ".join(sorted(client.regions)) or "no region"
            detail = f"client {client.name!r} may act in {allowed}"
            raise Refused(403, "region-not-allowed", "The key may not act in this region", [Fault("/region", detail)])
        if post.region not in served:
            raise appeals.invalid([Fault("/region", f"{post.region!r} is not served here: {', '.join(served)} are")])
        return {post.region}

    async def _require_hearing(self, post: AppealPost, disputed: Disputed, appeal_id: str, known: Known) -> None:
        if refused := appeals.refusal(post, disputed, self._clock.now(), self._days):
            raise refused
        decision_id, [name, _] = disputed.decision.decision_id, appeals.named(post)
        for other, facts in (await known.appeals_about(decision_id)).items():
            if other == appeal_id:
                continue
            state, answer = lives.where(facts), facts.way.decision
            if state in OPEN:
                detail = f"another appeal about decision {decision_id} is open: its answer comes first"
                raise Refused(409, "appeal-open", "Another appeal about it is open", [Fault(f"/{name}", detail)])
            if answer is not None and answer.action == "overturn":  # what took its place is not in the status yet
                detail = f"an appeal about decision {decision_id} has succeeded, and another takes its place: ask what"
                raise appeals.replaced(post, detail)
            if answer is not None:
                detail = f"decision {decision_id} was appealed about before, and stayed; it is not heard twice"
                raise Refused(409, "appeal-answered", "An appeal about it was answered", [Fault(f"/{name}", detail)])

    def _prepare(self, post: AppealPost, disputed: Disputed, client: Poster) -> Taken:
        region, subject = disputed.region, disputed.life.subject
        platform, kind, subject_id = subject.split(":", 2)
        said = appeals.content(post, disputed)
        submitted = AppealSubmitted(
            appeal_id=ids.appeal_id(client.name, region, subject, post.reference),
            platform=platform,
            kind=kind,
            subject_id=subject_id,
            client=client.name,
            reference=post.reference,
            content_hash=appeals.content_hash(post),
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
            disputed.first_event,
            disputed.decided_by_event,
        )
        record = to_record(topics.submissions(region), envelope.encode(attributes, submitted))
        return Taken(
            submitted.appeal_id,
            subject,
            submitted.content_hash,
            (region,),
            [event_id],
            [record],
            disputed.decision.decision_id,
        )

    @staticmethod
    def _same_again(taken: Taken, before: Facts) -> Taken:
        """What was answered before; raises Refused when that was to another appeal of the same name."""
        assert before.way.submission is not None  # noqa: S101 - it was asked
        if before.way.submission.content_hash != taken.content_hash:
            detail = "this reference names another appeal about the subject already; give this one another"
            raise Refused(409, "reference-used", "The reference is in use", [Fault("/reference", detail)])
        contested = before.contested
        return taken if contested is None else msgspec.structs.replace(taken, decision_id=contested.decision_id)


def _may_contest(type_: str, known: Mapping[str, status.Facts], kind: str, client: Poster) -> bool:
    """Whether the client may complain about an item or a notice: for the platform's sellers, or as who gave the
    notice."""
    if not client.may_act_for(status.platform(known)):
        return False
    return kind == "seller" or type_ != NOTICE or lives.is_from(client.name, known.values())


def _no_sellers(client: Poster) -> Refused:
    detail = (
        f"who speaks for sellers is who posts for them: client {client.name!r} lacks the scope {SPEAKS_FOR_SELLERS!r};"
        " it may appeal as the notifier of its own notices"
    )
    return Refused(403, "missing-scope", "The key may not do this", [Fault("/appellant/kind", detail)])


def _held(place: Place, regions: Collection[str], known: Mapping[str, status.Facts]) -> Disputed | None:
    life = known.get(place.region) if place.region in regions else None
    return (
        None
        if life is None or life.decision is None
        else Disputed(region=place.region, case_type=place.type, about=place.id, life=life)
    )


def _decided(type_: str, given: str, regions: Sequence[str], known: Mapping[str, status.Facts]) -> Disputed | None:
    """The life of an item or a notice in the one region that it is told of in, if it is decided there."""
    life = known.get(regions[0]) if regions else None
    return (
        None
        if life is None or life.decision is None
        else Disputed(region=regions[0], case_type=type_, about=given, life=life)
    )
