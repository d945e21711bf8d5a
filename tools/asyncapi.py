"""The contract of the topics, as AsyncAPI 3.0, made from the code's own types: `python -m tools.asyncapi` prints it.

Nothing in it is written twice: messages are the structs of `shared.contracts.events`, headers those of the envelope,
topics those of `deploy/kafka/topics.yaml`. The output is committed as `docs/asyncapi.yaml`; a test compares the two.
Source: AsyncAPI 3.0.0; its Kafka binding 0.5.0; CloudEvents 1.0.2, Kafka Protocol Binding.
"""

import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import yaml

from shared.contracts import events, ids, topics
from shared.contracts.envelope import GLOBAL, REQUIRED, Attributes, Event, encode, subject_of
from shared.kafka import topic_admin
from shared.kafka.parking import Parked
from shared.kafka.topic_admin import TopicSpec

Json = dict[str, Any]


class Channel(NamedTuple):
    """A topic (`{region}` stands for each), what it is for, the event types on it, who writes and who reads them."""

    name: str
    topic: str
    description: str
    types: Sequence[str]
    writers: Sequence[str]
    readers: Sequence[str]


CHANNELS: Final = (
    Channel(
        "submissions",
        topics.submissions("{region}"),
        "What upstream systems posted and took back, what was reported and complained about, and intake accepted for a"
        " region.",
        [events.ITEM_SUBMITTED, events.ITEM_WITHDRAWN, events.NOTICE_SUBMITTED, events.APPEAL_SUBMITTED],
        ["intake"],
        ["router", "audit", "intake"],
    ),
    Channel(
        "cases",
        topics.cases("{region}"),
        "A region's cases, with the verdict of its policies and the trace of how it came out; and withdrawals of them.",
        [events.CASE_OPENED, events.CASE_WITHDRAWN],
        ["router"],
        ["decision", "audit"],
    ),
    Channel(
        "decisions",
        topics.decisions("{region}"),
        "A region's decisions, and the life of its cases until then.",
        [
            events.DECISION_MADE,
            events.DECISION_REPLACED,
            events.CASE_CLAIMED,
            events.CASE_RELEASED,
            events.CASE_EXPIRED,
            events.CASE_SUPERSEDED,
            events.CASE_CLOSED,
        ],
        ["decision"],
        ["intake", "audit", "upstream"],
    ),
    Channel(
        "requests",
        topics.requests("{region}"),
        "The lives of the business requests that concern a region, each in its order.",
        [
            events.REQUEST_DRAFTED,
            events.REQUEST_CHANGED,
            events.REQUEST_COMMENTED,
            events.REQUEST_SUBMITTED,
            events.REQUEST_ENDORSED,
            events.REQUEST_APPROVED,
            events.REQUEST_REJECTED,
            events.REQUEST_WITHDRAWN,
            events.REQUEST_DEPLOYED,
            events.REQUEST_ROLLED_BACK,
            events.REQUEST_REVIEWED,
        ],
        ["intake"],
        ["audit"],
    ),
    Channel(
        "control",
        topics.CONTROL,
        "What is in force everywhere; compacted by entity, without personal data.",
        [events.OPERATING_MODEL_PUBLISHED, events.POLICY_SET_PUBLISHED, events.CLIENT_CHANGED],
        ["router", "intake"],
        ["router", "intake", "decision", "audit"],
    ),
    Channel(
        "access",
        topics.access("{region}"),
        "Who was refused by the services that a region's clients call, and which keys were used.",
        [events.ACCESS_REFUSED, events.ACCESS_USED],
        ["intake", "router", "decision", "audit"],
        ["audit", "intake"],
    ),
    Channel(
        "deadletters",
        topics.deadletters("{region}"),
        "Records that could not be handled, whole, with the reason in `dl_*` headers; and receipts for those that were"
        " put back, which close the letter of the same group and place.",
        ["deadletter"],
        ["intake", "router", "decision", "audit"],
        ["audit", "intake"],
    ),
    Channel(
        "parked",
        topics.parked("{region}"),
        "Which keys each consumer group has parked behind a record that it could not handle; compacted.",
        ["parkedkey"],
        ["router", "decision", "audit"],
        ["router", "decision", "audit"],
    ),
)

_TIME: Final = "2026-05-01T09:30:00.000Z"
_DUE: Final = "2026-05-02T09:30:00.000Z"
_REGION: Final = "eu"
_SUBJECT: Final = subject_of("shop", "product", "B07-1")
_ITEM_ID: Final = ids.item_id("shop", "product", "B07-1", "3")
_CASE_ID: Final = ids.case_id(_ITEM_ID, _REGION, "item")
_FIRST: Final = ids.event_id(_ITEM_ID, events.ITEM_SUBMITTED, _REGION)
_OPENED: Final = ids.event_id(_FIRST, events.CASE_OPENED)
_TAKEN_BACK: Final = ids.event_id(_ITEM_ID, events.ITEM_WITHDRAWN, _REGION)
_WITHDRAWN: Final = ids.event_id(_TAKEN_BACK, events.CASE_WITHDRAWN)
_CLAIMED: Final = ids.event_id(_OPENED, events.CASE_CLAIMED, 7)
_NOTICE_ID: Final = ids.notice_id("shop", _SUBJECT, "report 12")
_NOTICED: Final = ids.event_id(_NOTICE_ID, events.NOTICE_SUBMITTED, _REGION)
_MADE: Final = ids.event_id(_CASE_ID, events.DECISION_MADE, 1)
_APPEAL_ID: Final = ids.appeal_id("shop", _REGION, _SUBJECT, "complaint 3")
_APPEALED: Final = ids.event_id(_APPEAL_ID, events.APPEAL_SUBMITTED, _REGION)
_APPEAL_CASE_ID: Final = ids.case_id(_APPEAL_ID, _REGION, "appeal")
_ITEM: Final = events.Item(
    markets=["DE", "FR"],
    language="de",
    title="Tischlampe Messing",
    text="Gebraucht, voll funktionsfähig.",
    category="home/lighting/lamps",
    brand="Lumen",
    gtin="4006381333931",
    attributes={"color": "brass"},
    media=["https://media.example/B07-1.jpg"],
    price=events.Money(amount_minor=4990, currency="EUR"),
    seller=events.Seller(id="s-17", name="Licht & Co", country="DE", age_days=412, listings=96, rejected=1, rating=4.7),
    scores={"counterfeit": 0.12},
)


def _example(
    event_type: str,
    source: str,
    cause: str | None,
    data: events.Struct,
    *,
    subject: str = _SUBJECT,
    event_id: str | None = None,
    correlation_id: str | None = None,
) -> Event[events.Struct]:
    first = correlation_id or (_FIRST if subject == _SUBJECT else ids.event_id(subject, event_type, 1))
    event_id = event_id or (first if cause is None else ids.event_id(cause, event_type))
    region = _REGION if subject == _SUBJECT else GLOBAL
    return Event(Attributes(event_id, event_type, source, _TIME, subject, region, first, cause), data)


def examples() -> dict[str, Event[events.Struct]]:
    """One event of each type, as it may be met on its topic."""
    router, decision = f"piepowder/router/{_REGION}", f"piepowder/decision/{_REGION}"
    held: Json = {
        "case_id": _CASE_ID,
        "item_id": _ITEM_ID,
        "queue": "general",
        "reviewer": "r-8",
        "team": "eu-1",
        "lease_token": 7,
    }
    named: Json = {
        "item_id": _ITEM_ID,
        "platform": "shop",
        "kind": "product",
        "subject_id": "B07-1",
        "version": 3,
    }
    about: Json = {**named, "received_at": _TIME}
    region = events.Region(
        id=_REGION,
        title="European Union",
        markets=["DE", "FR"],
        queues=[
            events.Queue(id="general", title="General", service_level_minutes=1440),
            events.Queue(id="notices", title="Notices", service_level_minutes=720),
        ],
        default_queue="general",
        notice_queue="notices",
    )
    policy = events.Policy(
        id="too-good",
        title="Price far below the usual",
        when=["item.price.amount_minor < 5000"],
        verdict="review",
        reasons=["counterfeit"],
        queue="general",
        priority=3,
        markets=["DE"],
    )
    found: Sequence[Event[events.Struct]] = (
        _example(
            events.ITEM_SUBMITTED,
            "piepowder/intake",
            None,
            events.ItemSubmitted(
                **about,
                content_hash=ids.content_hash(b"Tischlampe Messing"),
                client="shop",
                reference="import 81",
                regions=[_REGION],
                item=_ITEM,
            ),
        ),
        _example(
            events.ITEM_WITHDRAWN,
            "piepowder/intake",
            _FIRST,
            events.ItemWithdrawn(**named, client="shop", reason="sold", withdrawn_at=_TIME, regions=[_REGION]),
            event_id=_TAKEN_BACK,
        ),
        _example(
            events.NOTICE_SUBMITTED,
            "piepowder/intake",
            None,
            events.NoticeSubmitted(
                notice_id=_NOTICE_ID,
                platform="shop",
                kind="product",
                subject_id="B07-1",
                client="shop",
                reference="report 12",
                content_hash=ids.content_hash(b"report 12"),
                received_at=_TIME,
                regions=[_REGION],
                notice=events.Notice(
                    markets=["DE"],
                    ground="counterfeit",
                    category="STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
                    explanation="Die Lampe trägt unser Zeichen, wir haben sie nicht hergestellt.",
                    locations=["https://shop.example/B07-1"],
                    language="de",
                    good_faith=True,
                    reporter=events.Reporter(
                        kind="trusted_flagger", name="Markenschutz e. V.", email="m@brand.example"
                    ),
                ),
            ),
            event_id=_NOTICED,
            correlation_id=_NOTICED,
        ),
        _example(
            events.APPEAL_SUBMITTED,
            "piepowder/intake",
            _MADE,
            events.AppealSubmitted(
                appeal_id=_APPEAL_ID,
                platform="shop",
                kind="product",
                subject_id="B07-1",
                client="shop",
                reference="complaint 3",
                content_hash=ids.content_hash(b"complaint 3"),
                received_at=_TIME,
                regions=[_REGION],
                appeal=events.Appeal(
                    appellant=events.Appellant(kind="seller", name="Licht & Co", email="licht@seller.example"),
                    explanation="Die Rechnung des Herstellers liegt bei: die Lampe ist echt.",
                    language="de",
                    decision=events.Contested(
                        decision_id=ids.decision_id(_CASE_ID, 1),
                        case_id=_CASE_ID,
                        item_id=_ITEM_ID,
                        n=1,
                        action="reject",
                        reasons=["counterfeit"],
                        automated=False,
                        reviewer="r-8",
                        team="eu-1",
                        decided_at=_TIME,
                    ),
                ),
            ),
            event_id=_APPEALED,
        ),
        _example(
            events.CASE_OPENED,
            router,
            _FIRST,
            events.CaseOpened(
                **about,
                case_id=_CASE_ID,
                queue="general",
                priority=3,
                due_at=_DUE,
                verdict="review",
                reasons=["counterfeit"],
                trace=events.Trace(
                    policy_set="3-9f2c", operating_model="1-07ab", matched=["too-good"], held=["too-good/0"]
                ),
                item=_ITEM,
            ),
        ),
        _example(
            events.CASE_WITHDRAWN,
            router,
            _TAKEN_BACK,
            events.CaseWithdrawn(**named, case_id=_CASE_ID, withdrawn_at=_TIME, reason="sold"),
        ),
        _example(events.CASE_CLAIMED, decision, _OPENED, events.CaseClaimed(**held, lease_until=_DUE)),
        _example(events.CASE_RELEASED, decision, _CLAIMED, events.CaseReleased(**held, reason="not my language")),
        _example(events.CASE_EXPIRED, decision, _CLAIMED, events.CaseExpired(**held)),
        _example(
            events.CASE_SUPERSEDED,
            decision,
            _OPENED,
            events.CaseSuperseded(
                case_id=_CASE_ID, item_id=_ITEM_ID, superseded_by=ids.item_id("shop", "product", "B07-1", "4")
            ),
        ),
        _example(
            events.CASE_CLOSED,
            decision,
            _WITHDRAWN,
            events.CaseClosed(case_id=_CASE_ID, item_id=_ITEM_ID, reason="withdrawn"),
        ),
        _example(
            events.DECISION_MADE,
            decision,
            _CLAIMED,
            events.DecisionMade(
                **about,
                decision_id=ids.decision_id(_CASE_ID, 1),
                case_id=_CASE_ID,
                queue="general",
                n=1,
                action="reject",
                reasons=["counterfeit"],
                policy_set="3-9f2c",
                automated=False,
                reviewer="r-8",
                team="eu-1",
                lease_token=7,
                note="The brand does not make this lamp.",
                due_at=_DUE,
            ),
        ),
        _example(
            events.DECISION_REPLACED,
            decision,
            ids.event_id(_APPEAL_CASE_ID, events.DECISION_MADE, 1),
            events.DecisionReplaced(
                **about,
                decision_id=ids.decision_id(_CASE_ID, 2),
                case_id=_CASE_ID,
                queue="general",
                n=2,
                action="approve",
                policy_set="3-9f2c",
                automated=False,
                reviewer="r-2",
                team="eu-1",
                note="The invoice is the brand's own.",
                due_at=_DUE,
                replaces=ids.decision_id(_CASE_ID, 1),
                why="appeal",
                appeal_id=_APPEAL_ID,
                appeal_case_id=_APPEAL_CASE_ID,
            ),
            event_id=ids.event_id(_CASE_ID, events.DECISION_REPLACED, 2),
        ),
        _example(
            events.OPERATING_MODEL_PUBLISHED,
            "piepowder/router",
            None,
            events.OperatingModelPublished(id="1-07ab", number=1, published_by="lead", regions=[region]),
            subject="operating-model",
        ),
        _example(
            events.POLICY_SET_PUBLISHED,
            "piepowder/router",
            None,
            events.PolicySetPublished(
                id="3-9f2c",
                number=3,
                published_by="lead",
                terms={"weapons": ["switchblade"]},
                policies=[policy],
                default_verdict="approve",
            ),
            subject="policy-set",
        ),
    )
    return {event.attributes.type: event for event in (*found, *_request_examples(policy), *_client_examples())}


def _client_examples() -> list[Event[events.Struct]]:
    """One event of each type about clients and their calls."""
    sha256 = ids.content_hash(b"a key")
    client = events.ClientChanged(
        name="shop",
        revision=1777627800000,
        state="active",
        change="key_added",
        changed_by="platform-team",
        scopes=["items:read", "items:write"],
        regions=[_REGION],
        platforms=["shop"],
        limit=events.RateLimit(requests_per_second=200.0, burst=400),
        keys=[events.ClientKey(sha256=sha256, created_at=_TIME, expires_at="2027-05-01T00:00:00.000Z")],
    )
    refused = events.AccessRefused(
        service="decision",
        method="POST",
        route="/v1/claims",
        status=403,
        reason="missing-scope",
        client="shop",
        key=sha256[:12],
        count=3,
        since=_TIME,
        until="2026-05-01T09:30:02.710Z",
    )
    used = events.AccessUsed(
        service="intake",
        since=_TIME,
        until="2026-05-01T09:31:00.000Z",
        keys=[events.KeyUse(client="shop", key=sha256[:12], calls=118, last_used_at="2026-05-01T09:30:59.800Z")],
    )
    told: Sequence[tuple[str, str, str, str, events.Struct]] = (
        (events.CLIENT_CHANGED, "piepowder/intake", "client:shop", GLOBAL, client),
        (events.ACCESS_REFUSED, f"piepowder/decision/{_REGION}", "piepowder:client:shop", _REGION, refused),
        (events.ACCESS_USED, "piepowder/intake", "piepowder:service:intake", _REGION, used),
    )
    found: list[Event[events.Struct]] = []
    for event_type, source, subject, region, data in told:
        event_id = ids.event_id(subject, event_type)
        found.append(Event(Attributes(event_id, event_type, source, _TIME, subject, region, event_id), data))
    return found


def _request_examples(policy: events.Policy) -> list[Event[events.Struct]]:
    """One event of each type of a business request's life."""
    request_id = ids.derive("request", "policy-team", "lamps-2026")
    asked = events.BusinessRequest(
        title="Lamps far below their price are looked at",
        kind="policy_change",
        sponsor="moderation-lead",
        regions=[_REGION],
        markets=["DE", "FR"],
        expected_items_per_day=1200,
        expected_date="2026-06-01",
        rationale="Counterfeit lamps are sold at a tenth of the usual price.",
        change_hash=ids.content_hash(b"too-good"),
    )
    change = events.ProposedChange(
        policy_set=events.ProposedPolicySet(policies=[policy], default_verdict="approve"),
    )
    text = "Shown to work on last week's items."
    told: dict[str, tuple[str, type[events.Struct], Json]] = {
        events.REQUEST_DRAFTED: ("policy-team", events.RequestDrafted, {"request": asked}),
        events.REQUEST_CHANGED: ("policy-team", events.RequestChanged, {"regions": [_REGION], "request": asked}),
        events.REQUEST_COMMENTED: (
            "lead-a",
            events.RequestCommented,
            {"comment_id": ids.derive("comment", request_id, "lead-a", "1"), "text": "How many of them were wrong?"},
        ),
        events.REQUEST_SUBMITTED: (
            "policy-team",
            events.RequestSubmitted,
            {"approvals_needed": 2, "request": asked, "change": change},
        ),
        events.REQUEST_ENDORSED: (
            "lead-a",
            events.RequestEndorsed,
            {"reason": text, "approvals": 1, "approvals_needed": 2},
        ),
        events.REQUEST_APPROVED: ("lead-b", events.RequestApproved, {"approved_by": ["lead-a", "lead-b"]}),
        events.REQUEST_REJECTED: ("lead-b", events.RequestRejected, {"reason": "It meets honest clearance sales."}),
        events.REQUEST_WITHDRAWN: ("policy-team", events.RequestWithdrawn, {"reason": "The supplier stopped."}),
        events.REQUEST_DEPLOYED: ("operations", events.RequestDeployed, {}),
        events.REQUEST_ROLLED_BACK: ("operations", events.RequestRolledBack, {"reason": "Twice the expected reviews."}),
        events.REQUEST_REVIEWED: ("lead-a", events.RequestReviewed, {"reason": "As expected, four weeks on."}),
    }
    subject = subject_of("piepowder", "request", request_id)
    first = last = None
    found: list[Event[events.Struct]] = []
    for version, (event_type, (by, kind, said)) in enumerate(told.items(), 1):
        event_id = ids.event_id(request_id, event_type, f"{version}/{_REGION}")
        first = first or event_id
        attributes = Attributes(event_id, event_type, "piepowder/intake", _TIME, subject, _REGION, first, last)
        found.append(Event(attributes, kind(request_id=request_id, version=version, by=by, **said)))
        last = event_id
    return found


def schemas() -> dict[str, Json]:
    """The JSON Schema of every struct that travels, by its name; references are as in an AsyncAPI document."""
    return msgspec.json.schema_components(list(events.TYPES.values()), ref_template="#/components/schemas/{name}")[1]


def document() -> Json:
    """The whole contract."""
    specs = {spec.name: spec for spec in topic_admin.load()}
    shown = examples()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Piepowder events",
            "version": "1.0.0",
            "description": "Event-driven moderation for a marketplace that trades in many regions. Events are"
            " CloudEvents 1.0 in Kafka's binary mode, at least once, in order per subject: a consumer leaves out a"
            " `ce_id` it has seen. Inside a `.v1`, fields are added with a default; none is renamed, retyped or"
            " removed. A reader takes any string where it knows some, and lets unknown fields pass.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel, specs[channel.topic]) for channel in CHANNELS},
        "operations": {
            f"{who}.{action}.{channel.name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel.name}"},
                "summary": f"{who} {'writes' if action == 'send' else 'reads'} {channel.topic}",
            }
            for channel in CHANNELS
            for action, parties in (("send", channel.writers), ("receive", channel.readers))
            for who in parties
        },
        "components": {
            "messages": {name: _message(name, shown[name]) for name in events.TYPES}
            | {"deadletter": _dead_letter(), "parkedkey": _parked_key()},
            "schemas": {"Headers": _headers(), "DeadLetterHeaders": _dead_letter_headers(), **schemas()},
        },
    }


def render() -> str:
    """The document as YAML, as it is committed."""
    text: str = yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Generated by `python -m tools.asyncapi > docs/asyncapi.yaml`.\n{text}"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - what is said twice is written twice
        return True


def _channel(channel: Channel, spec: TopicSpec) -> Json:
    described: Json = {
        "address": channel.topic,
        "title": channel.name,
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.types},
        "bindings": {
            "kafka": {
                "topic": channel.topic,
                "partitions": spec.partitions,
                "replicas": spec.replication,
                "topicConfiguration": {name: _config(name, value) for name, value in spec.config.items()},
                "bindingVersion": "0.5.0",
            }
        },
    }
    if "{region}" in channel.topic:
        region = {"description": "The operating region that owns the data", "examples": ["eu", "us"]}
        described["parameters"] = {"region": region}
    return described


def _config(name: str, value: str) -> object:
    if name == "cleanup.policy":
        return value.split(",")
    return int(value) if value.isdigit() else value


def _message(name: str, example: Event[events.Struct]) -> Json:
    kind = events.TYPES[name]
    encoded = encode(example.attributes, example.data)
    schema = f"urn:piepowder:schema:{name}"
    return {
        "name": name,
        "title": kind.__name__,
        "summary": (kind.__doc__ or "").partition("\n")[0],
        "contentType": "application/json",
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "headers": {
            "allOf": [
                {"$ref": "#/components/schemas/Headers"},
                {"properties": {"ce_type": {"const": name}, "ce_dataschema": {"const": schema}}},
            ]
        },
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": "The subject"}, "bindingVersion": "0.5.0"}},
        "examples": [
            {
                "headers": {header: value.decode() for header, value in encoded.headers},
                "payload": msgspec.json.decode(encoded.value),
            }
        ],
    }


def _headers() -> Json:
    text: Json = {"type": "string", "minLength": 1, "maxLength": 1024}
    uuid: Json = {"type": "string", "format": "uuid"}
    return {
        "type": "object",
        "description": "The CloudEvents attributes, each UTF-8 text.",
        "required": ["ce_specversion", *REQUIRED],
        "properties": {
            "content-type": {"const": "application/json"},
            "ce_specversion": {"const": "1.0"},
            "ce_id": {**uuid, "description": "The same again is the same event."},
            "ce_type": text,
            "ce_source": {**text, "description": "The service that wrote it."},
            "ce_time": {"type": "string", "format": "date-time", "description": "UTC, with milliseconds."},
            "ce_subject": {**text, "description": "`<platform>:<kind>:<the platform's own id>`; the record's key."},
            "ce_dataschema": text,
            "ce_region": {**text, "description": f"The region that owns it, `{GLOBAL}` for none."},
            "ce_correlationid": {**uuid, "description": "The item's, or the notice's, first event."},
            "ce_causationid": {**uuid, "description": "The event that brought this one about."},
            "traceparent": {"type": "string", "description": "W3C Trace Context."},
        },
    }


def _dead_letter() -> Json:
    return {
        "name": "deadletter",
        "title": "Dead letter",
        "summary": "A record that could not be handled: its key, value and headers, and why it was set aside.",
        "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
        "payload": {"description": "The original value, whatever it is."},
    }


def _dead_letter_headers() -> Json:
    described = {
        "dl_reason": "Why, as a sentence.",
        "dl_group": "The consumer group that set it aside.",
        "dl_topic": "Where it stood.",
        "dl_partition": "Where it stood.",
        "dl_offset": "Where it stood.",
        "dl_time": "When it was set aside.",
    }
    sometimes = {
        "dl_parked": "The offset of the record behind which its key is parked; missing when it was set aside alone.",
        "dl_met": "Where it was met last, when it had been put back and was set aside again.",
        "dl_returned": "Makes it a receipt, without value: where the record was put back.",
        "dl_unread": "The Kafka client cannot read the record: it stays where it stood, and is not here.",
    }
    properties = {name: {"type": "string", "description": text} for name, text in (described | sometimes).items()}
    return {
        "type": "object",
        "description": "The original headers, and these. An original header that begins with `dl_` has one more `dl_`.",
        "required": list(described),
        "properties": properties,
    }


def _parked_key() -> Json:
    return {
        "name": "parkedkey",
        "title": "Parked key",
        "summary": "What of a key is set aside in a partition; without a value, the key is parked no more.",
        "contentType": "application/json",
        "headers": {"type": "object", "description": "It has none: it is kept state, not an event."},
        "payload": msgspec.json.schema_components([Parked], ref_template="{name}")[1]["Parked"],
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "`<group>/<topic>/<partition>/<the records' key>`"},
                "bindingVersion": "0.5.0",
            }
        },
    }


if __name__ == "__main__":
    sys.stdout.write(render())
