"""The hash of a request's body: it distinguishes the retry of a call from an `Idempotency-Key` that is used twice."""

from collections.abc import Collection

import msgspec
from pydantic import BaseModel

from shared.contracts import ids


def body_hash(body: BaseModel, *, always: Collection[str]) -> str:
    """The hash of a body's fields in their order, without those that equal their default (see `shared.contracts.ids`).

    `always` names the optional fields of the first version: its hash has them at their default too, and hashes are
    stored. Do not add a field to it.
    """
    given = body.model_dump(mode="json", exclude_defaults=True)
    fields = body.model_dump(mode="json").items()
    kept = {name: given.get(name, value) for name, value in fields if name in given or name in always}
    return ids.content_hash(msgspec.json.encode(kept))
