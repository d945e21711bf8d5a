"""Events on `piepowder.access.<region>`: refused requests, used API keys, and an operator's decisions about records: an
accepted loss, a discarded dead letter."""

from typing import Final

from shared.contracts.events.base import Struct

ACCESS_REFUSED: Final = "piepowder.access.refused.v1"
ACCESS_USED: Final = "piepowder.access.used.v1"
LOSS_ACCEPTED: Final = "piepowder.loss.accepted.v1"
DEADLETTER_DISCARDED: Final = "piepowder.deadletter.discarded.v1"


class AccessRefused(Struct, frozen=True, kw_only=True):
    """Requests that a process refused for the same `reason`, from the first (`since`) to the last (`until`).

    `client` is empty when the client is unknown. `key` has the first digits of the hash of the first request's key.
    """

    service: str
    method: str
    route: str
    status: int
    reason: str
    client: str = ""
    key: str = ""
    count: int
    since: str
    until: str


class KeyUse(Struct, frozen=True, kw_only=True):
    """Number of requests with a valid API key, refused ones included; `key` has the first digits of its hash."""

    client: str
    key: str
    calls: int
    last_used_at: str


class AccessUsed(Struct, frozen=True, kw_only=True):
    """Valid API keys that a process received in about a minute."""

    service: str
    since: str
    until: str
    keys: list[KeyUse]


class LossAccepted(Struct, frozen=True, kw_only=True):
    """An operator accepted that a consumer group never handles some records of a partition, and continues behind them.

    `reason`: `deleted` (Kafka deleted the records before the group read them), `truncated` (records that the group read
    are no longer in the topic), `recreated` (the topic was deleted and created again).
    `first`, `last`: the offsets of the first and the last missing record; `last` is None if it is unknown.
    `continues_at`: the offset at which the group continues, in the topic with the id `topic_id`.
    `by`: the name of the operator's account on the machine of the command.
    """

    group: str
    topic: str
    topic_id: str
    partition: int
    reason: str
    first: int
    last: int | None = None
    continues_at: int
    by: str
    note: str = ""


class DeadLetterDiscarded(Struct, frozen=True, kw_only=True):
    """An operator discarded a dead letter: the consumer group never handles the record.

    `topic`, `partition`, `offset`: the original position of the record.
    `content`: a hash of the record (hexadecimal), which distinguishes it from a record at the same position of a topic
    that was created again; empty if only its own topic has the record.
    `event_id`: the id of the event in the record; empty if the record is not an event.
    `reason`: the reason for which the record was dead-lettered. `why`: the reason for the discard.
    `by`: the name of the operator's account on the machine of the command.
    """

    group: str
    topic: str
    partition: int
    offset: int
    content: str = ""
    event_id: str = ""
    reason: str
    by: str
    why: str
