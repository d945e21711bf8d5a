"""The hash of a request's body: it distinguishes a retry from another call with the same `Idempotency-Key`."""

from collections.abc import Collection

import msgspec
from pydantic import BaseModel

from shared.contracts import ids


def body_hash(body: BaseModel, *, always: Collection[str]) -> str:
    """The hash of a body's fields in their order, without fields that have their default (see `shared.contracts.ids`).

    `always` names the optional fields of the first version. They are hashed even with their default, because stored
    hashes contain them. Do not add a field to it.
    """
    given = body.model_dump(mode="json", exclude_defaults=True)
    fields = body.model_dump(mode="json").items()
    kept = {name: given.get(name, value) for name, value in fields if name in given or name in always}
    return ids.content_hash(msgspec.json.encode(kept))
