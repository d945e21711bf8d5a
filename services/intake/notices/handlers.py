"""Submission of notices and appeals. They are accepted, like items, when Kafka has acknowledged them in every region.

A notice needs only the operating model and Kafka: it writes no row, and a repeated notice gets the same id. An appeal
contests a decision, which is first looked up in the status projection (`services.intake.items.read_your_writes`). The
checks use the state that the projection knows. If two appeals about a decision arrive before the projection knows the
first, both are accepted; the decision service, which has the authoritative state, closes the second one.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Final, Protocol

import msgspec

from services.intake.errors import NOT_FOUND, require_platform
from services.intake.items.domain import status
from services.intake.items.handlers import ItemIntake, require_regions
from services.intake.items.read_your_writes import ReadYourWrites
from services.intake.items.used_versions import RecentContents
from services.intake.items.withdrawals import REGION_NOT_SERVED
from services.intake.notices.domain import appeals, complaint_status, notices
from services.intake.notices.domain.appeals import INVALID_APPEAL, AppealPost, ContestedDecision
from services.intake.notices.domain.complaint_status import APPEAL, ITEM, NOTICE, OPEN, CaseIdentity, ComplaintFacts
from services.intake.notices.domain.notices import INVALID_NOTICE, NoticePost
from services.intake.publishing.regions import SOURCE, Publishable
from shared.auth.principal import MISSING_SCOPE, REGION_NOT_ALLOWED, Principal
from shared.contracts import envelope, ids, topics
from shared.contracts.envelope import Attributes
from shared.contracts.events import APPEAL_SUBMITTED, NOTICE_SUBMITTED, AppealSubmitted, NoticeSubmitted
from shared.kafka.producer import record as to_record
from shared.runtime.clock import Clock, to_text
from shared.runtime.errors import Transient
from shared.validation.codes import Codes
from shared.validation.documents import ParsedDocument
from shared.validation.faults import InputRejected

SPEAKS_FOR_SELLERS: Final = "items:write"
_LOOKUP_SECONDS: Final = 0.5
_TYPE_OF: Final = {"item_id": ITEM, "notice_id": NOTICE}


class ComplaintLookup(Protocol):
    """Reads the facts about items, notices, appeals and decisions: `services.intake.notices.store`."""

    async def facts_of(self, type_: str, id_: str) -> dict[str, ComplaintFacts]: ...
    async def case_facts_of(self, type_: str, id_: str) -> dict[str, status.StatusFacts]: ...
    async def case_of_decision(self, decision_id: str) -> CaseIdentity | None: ...
    async def appeals_against(self, decision_id: str) -> dict[str, ComplaintFacts]: ...


class PreparedComplaint(Publishable, frozen=True, kw_only=True, gc=False):
    """A valid notice or appeal. `decision_id` is the contested decision of an appeal. `conflict`: its reference was
    used for other content before."""

    id: str
    content_hash: str
    decision_id: str = ""
    conflict: bool = False


class Notices:
    """Submits notices. `complaints` is set while the database is available; notices are accepted without it."""

    def __init__(self, intake: ItemIntake, codes: Codes, clock: Clock) -> None:
        self.complaints: ComplaintLookup | None = None
        self._recent = RecentContents()
        self._intake = intake
        self._codes = codes
        self._clock = clock

    @property
    def is_ready(self) -> bool:
        """True if an operating model is in force."""
        return self._intake.ownership is not None

    async def submit(self, notice: ParsedDocument[NoticePost], client: Principal) -> PreparedComplaint:
        """Publish a notice in every region that owns one of its markets.

        Raises InputRejected with every fault, Overloaded when the queue is full, Transient when Kafka does not respond
        or no operating model is in force. The client can repeat the call after Transient.
        """
        prepared = self.prepare(notice, client)
        await self._intake.submit([prepared])
        if self._recent.note(prepared.id, prepared.content_hash, prepared, client) or await self._is_used(
            prepared, client
        ):
            return msgspec.structs.replace(prepared, conflict=True)
        return prepared

    async def _is_used(self, prepared: PreparedComplaint, client: Principal) -> bool:
        """True if the projection has another content of this notice, in a region of the client."""
        if self.complaints is None:
            return False
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS):
                found = await self.complaints.facts_of(NOTICE, prepared.id)
        except (Transient, TimeoutError):  # the notice is accepted without it; readiness reports the database
            return False
        submissions = [facts.case.submission for region, facts in found.items() if client.may_act_in(region)]
        return any(one is not None and one.content_hash != prepared.content_hash for one in submissions)

    def prepare(self, notice: ParsedDocument[NoticePost], client: Principal) -> PreparedComplaint:
        """Validate a notice and create its records, without sending them. Raises like `submit`."""
        ownership = self._intake.ownership
        if ownership is None:
            raise Transient("No operating model is in force yet.")
        post, faults, _ = notice
        if post is None:
            raise InputRejected(INVALID_NOTICE, faults)
        if found := notice.with_rules(chain(notices.faults(post, self._codes), ownership.faults(post.markets))):
            raise InputRejected(INVALID_NOTICE, found)
        require_platform(client, post.platform, "/platform")
        regions = ownership.regions(post.markets)
        require_regions(ownership, client, post.markets, regions)
        subject, content = envelope.subject_of(post.platform, post.kind, post.id), notices.content(post)
        submitted = NoticeSubmitted(
            notice_id=ids.notice_id(client.name, subject, post.reference),
            platform=post.platform,
            kind=post.kind,
            subject_id=post.id,
            client=client.name,
            reference=post.reference,
            content_hash=notices.content_hash(content),
            received_at=to_text(self._clock.now()),
            regions=list(regions),
            notice=content,
        )
        event_ids, records = [], []
        for region in regions:
            event_id = ids.event_id(submitted.notice_id, NOTICE_SUBMITTED, region)
            about = Attributes(event_id, NOTICE_SUBMITTED, SOURCE, submitted.received_at, subject, region, event_id)
            event_ids.append(event_id)
            records.append(to_record(topics.submissions(region), envelope.encode(about, submitted)))
        return PreparedComplaint(
            id=submitted.notice_id,
            subject=subject,
            content_hash=submitted.content_hash,
            regions=regions,
            event_ids=event_ids,
            records=records,
        )


class Appeals:
    """Submits appeals; `days` is the length of the appeal window after a decision."""

    def __init__(
        self,
        intake: ItemIntake,
        complaints: ComplaintLookup,
        codes: Codes,
        *,
        read_your_writes: ReadYourWrites,
        clock: Clock,
        days: int,
    ) -> None:
        self._recent = RecentContents()
        self._complaints = complaints
        self._intake = intake
        self._codes = codes
        self._read_your_writes = read_your_writes
        self._clock = clock
        self._days = days

    async def submit(self, appeal: ParsedDocument[AppealPost], client: Principal) -> PreparedComplaint:
        """Publish an appeal in the region of the contested decision.

        Raises InputRejected for an invalid or inadmissible appeal, when the client has no such decision, or when its
        region has left the operating model; Overloaded when the queue is full; Transient when the database or Kafka
        does not respond, no operating model is in force, or the projection is too far behind. The client can repeat the
        call after Transient.
        """
        post, faults, _ = appeal
        if post is None or (found := appeal.with_rules(appeals.faults(post, self._codes))):
            raise InputRejected(INVALID_APPEAL, faults if post is None else found)
        if post.appellant.kind == "seller" and SPEAKS_FOR_SELLERS not in client.scopes:
            detail = f"appeals of sellers need the scope {SPEAKS_FOR_SELLERS!r}; client {client.name!r} may only appeal"
            raise MISSING_SCOPE(f"{detail} as the notifier of its own notices", "/appellant/kind")
        contested = await self._find(post, client)
        prepared = self._prepare(post, contested, client)
        before = (await self._complaints.facts_of(APPEAL, prepared.id)).get(contested.region)
        if before is None or before.case.submission is None:
            self._require_open_region(post, contested.region)
            await self._require_admissible(post, contested, prepared.id)
            await self._intake.submit([prepared])
            used = self._recent.note(prepared.id, prepared.content_hash, prepared, client)
            return msgspec.structs.replace(prepared, conflict=True) if used else prepared
        return self._repeated(prepared, before)

    async def _find(self, post: AppealPost, client: Principal) -> ContestedDecision:
        """The contested decision with its case."""
        name, named_id = appeals.named(post)
        regions = self._regions(post, client)
        named_type = name.removesuffix("_id")

        async def case_facts(type_: str, id_: str) -> dict[str, status.StatusFacts]:
            found = await self._complaints.case_facts_of(type_, id_)
            return found if _may_contest(type_, found, post.appellant.kind, client) else {}

        async def look() -> ContestedDecision | None:
            if name == "decision_id":
                decided_case = await self._complaints.case_of_decision(named_id)
                if decided_case is None:
                    return None
                return _contested_by_id(decided_case, regions, await case_facts(decided_case.type, decided_case.id))
            found = await case_facts(_TYPE_OF[name], named_id)
            candidates = sorted(status.submitted_to(found).intersection(regions) | regions.intersection(found))
            if len(candidates) > 1:
                candidates = [await self._region_of_repeated(candidates, status.subject(found), post, client)]
            return _contested_in(_TYPE_OF[name], named_id, candidates, found)

        found = await self._read_your_writes.find(
            look,
            topics=lambda region: [topics.submissions(region), topics.cases(region), topics.decisions(region)],
            regions=regions,
            doubt=f"No decision is known for {name} {named_id}, but the status does not include the latest decisions"
            " yet.",
        )
        if found is not None:
            return found
        if name != "decision_id" and not regions.isdisjoint(await case_facts(_TYPE_OF[name], named_id)):
            raise appeals.UNDECIDED(f"{named_type} {named_id} has no decision that could be contested", f"/{name}")
        condition = " that can be contested" if name == "decision_id" else ""
        raise NOT_FOUND.with_message(
            f"No {named_type} {named_id}{condition} is known to this key, in its regions and for its platforms."
        )

    async def _region_of_repeated(
        self, regions: Sequence[str], subject: str, post: AppealPost, client: Principal
    ) -> str:
        """The region in which this client submitted the same appeal before. Raises InputRejected if there is none."""
        for region in regions:
            before = (
                await self._complaints.facts_of(APPEAL, ids.appeal_id(client.name, region, subject, post.reference))
            ).get(region)
            submission = None if before is None else before.case.submission
            if submission is not None and submission.content_hash == appeals.content_hash(post):
                return region
        submitted = f"the {_TYPE_OF[appeals.named(post)[0]]} was submitted to {', '.join(regions)}"
        raise INVALID_APPEAL(f"{submitted}: name the region of the contested decision", "/region")

    def _regions(self, post: AppealPost, client: Principal) -> set[str]:
        """The regions that can have the decision; raises InputRejected for a region that is forbidden or not served."""
        served = self._read_your_writes.regions
        if not post.region:
            return {region for region in served if client.may_act_in(region)}
        if not client.may_act_in(post.region):
            raise REGION_NOT_ALLOWED(client.described_regions(), "/region")
        if post.region not in served:
            raise INVALID_APPEAL(f"{post.region!r} is not served here; expected one of {', '.join(served)}", "/region")
        return {post.region}

    def _require_open_region(self, post: AppealPost, region: str) -> None:
        """Require that the region of the decision still routes cases: an appeal that is sent to another one waits for
        ever, and no other region has the decision."""
        ownership = self._intake.ownership
        if ownership is None:
            raise Transient("No operating model is in force yet.")
        if region not in ownership.open_regions:
            detail = f"region {region!r} has left the operating model, so its decisions can no longer be contested here"
            raise REGION_NOT_SERVED(detail, f"/{appeals.named(post)[0]}")

    async def _require_admissible(self, post: AppealPost, contested: ContestedDecision, appeal_id: str) -> None:
        if refused := appeals.inadmissible(post, contested, self._clock.now(), self._days):
            raise refused
        decision_id, [name, _] = contested.decision.decision_id, appeals.named(post)
        for other, facts in (await self._complaints.appeals_against(decision_id)).items():
            if other == appeal_id:
                continue
            state, decision = complaint_status.status_of(facts), facts.case.decision
            if state in OPEN:
                raise appeals.APPEAL_OPEN(f"another appeal about decision {decision_id} is not decided yet", f"/{name}")
            if decision is not None and decision.action == "overturn":  # the new decision is not in the status yet
                detail = f"an appeal about decision {decision_id} succeeded: contest the decision that replaces it"
                raise appeals.replaced(post, detail)
            if decision is not None:
                detail = f"an earlier appeal upheld decision {decision_id}; a decision can be contested only once"
                raise appeals.APPEAL_ANSWERED(detail, f"/{name}")

    def _prepare(self, post: AppealPost, contested: ContestedDecision, client: Principal) -> PreparedComplaint:
        region, subject = contested.region, contested.facts.subject
        platform, kind, subject_id = subject.split(":", 2)
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
            appeal=appeals.content(post, contested),
        )
        event_id, time = ids.event_id(submitted.appeal_id, APPEAL_SUBMITTED, region), submitted.received_at
        causes = contested.first_event, contested.decided_by_event
        attributes = Attributes(event_id, APPEAL_SUBMITTED, SOURCE, time, subject, region, *causes)
        record = to_record(topics.submissions(region), envelope.encode(attributes, submitted))
        return PreparedComplaint(
            id=submitted.appeal_id,
            subject=subject,
            content_hash=submitted.content_hash,
            regions=(region,),
            event_ids=[event_id],
            records=[record],
            decision_id=contested.decision.decision_id,
        )

    @staticmethod
    def _repeated(prepared: PreparedComplaint, before: ComplaintFacts) -> PreparedComplaint:
        """The receipt of the earlier submission of the same appeal. Raises InputRejected when the reference belongs to
        another appeal."""
        assert before.case.submission is not None  # noqa: S101 - checked by `submit`
        if before.case.submission.content_hash != prepared.content_hash:
            detail = "this reference belongs to another appeal about the subject; choose another reference"
            raise appeals.REFERENCE_USED(detail, "/reference")
        contested = before.contested
        return prepared if contested is None else msgspec.structs.replace(prepared, decision_id=contested.decision_id)


def _may_contest(type_: str, facts_by_region: Mapping[str, status.StatusFacts], kind: str, client: Principal) -> bool:
    """True if the client may contest decisions on an item or a notice.

    It may act for the sellers of its platforms, and as the notifier of its own notices. A notifier's appeal about an
    item is rejected later, by `appeals.inadmissible`.
    """
    if not client.may_act_for(status.platform(facts_by_region)):
        return False
    return (
        kind == "seller" or type_ != NOTICE or complaint_status.is_submitted_by(client.name, facts_by_region.values())
    )


def _contested_by_id(
    case: CaseIdentity, regions: Collection[str], facts_by_region: Mapping[str, status.StatusFacts]
) -> ContestedDecision | None:
    return _contested_in(case.type, case.id, [case.region] if case.region in regions else [], facts_by_region)


def _contested_in(
    type_: str, id_: str, regions: Sequence[str], facts_by_region: Mapping[str, status.StatusFacts]
) -> ContestedDecision | None:
    """The decision on an item or a notice in the first of `regions`; None without a region or decision."""
    facts = facts_by_region.get(regions[0]) if regions else None
    if facts is None or facts.decision is None:
        return None
    return ContestedDecision(region=regions[0], case_type=type_, about=id_, facts=facts)
