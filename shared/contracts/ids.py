"""Deterministic ids: a retry, a replay or a restart after a crash derives the same ids again.

Every id is a UUIDv5 (RFC 9562) of the parts that identify its object. Only API keys and the id of a process's run are
random.

A content hash decides whether a retry is the same call, so an upgrade between the two calls must not change it.
Therefore an optional field with its default value is omitted: a new optional field changes no hash of older content.
"""

import hashlib
import secrets
import zlib
from collections.abc import Collection
from functools import cache
from typing import Final
from uuid import UUID

import msgspec
from msgspec import structs

NAMESPACE: Final = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562's URL namespace
_BEGUN: Final = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)
_SEPARATOR: Final = "\x1f"  # ASCII unit separator; no part may contain it
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # its two high bits must be 10
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"


def derive(*parts: str) -> str:
    """The UUIDv5 of `parts`, as text: `uuid.uuid5(NAMESPACE, "\\x1f".join(parts))`, but faster."""
    hashed = _BEGUN.copy()
    hashed.update(_SEPARATOR.join(parts).encode())
    h = hashed.hexdigest()
    return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}"


def item_id(platform: str, kind: str, subject_id: str, version: str) -> str:
    """Id of a posted version of a subject; `version` is the client's number as text, or the content's hash."""
    return derive("item", platform, kind, subject_id, version)


def notice_id(client: str, subject: str, reference: str) -> str:
    """Id of a client's notice about a subject (`platform:kind:id`), by the client's reference."""
    return derive("notice", client, subject, reference)


def appeal_id(client: str, region: str, subject: str, reference: str) -> str:
    """Id of a client's appeal against a region's decision on a subject, by the client's reference."""
    return derive("appeal", client, region, subject, reference)


def case_id(item: str, region: str, case_type: str) -> str:
    """Id of a region's case of an item, a notice or an appeal."""
    return derive("case", item, region, case_type)


def event_id(cause: str, event_type: str, n: int | str = 0) -> str:
    """Id of the n-th event of a type with this cause: the id of an event or, for a first event, of its object."""
    return derive("event", cause, event_type, str(n))


def decision_id(case: str, n: int, incarnation: int = 0) -> str:
    """Id of the n-th decision of a case, from 1.

    `incarnation` counts the restores of the region's database, for a decision that another answer may have followed:
    a decision that was lost in a restore has the same `n` as the one that is made instead, and another id.
    """
    return derive("decision", case, str(n), *([str(incarnation)] if incarnation else []))


def canonical(content: object) -> bytes:
    """Content as canonical JSON: a struct's fields in their order without defaults, mappings sorted by key."""
    return _encode(content)


def content_hash(content: bytes) -> str:
    """SHA-256 of a canonical encoding, as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def struct_hash(content: msgspec.Struct, *, always: Collection[str]) -> str:
    """The hash of a struct's fields, sorted by name, without fields that have their default.

    `always` names the optional fields of the first version. They are hashed even with their default, because stored
    hashes contain them. Do not add a field to it.
    """
    defaults = _defaults(type(content))
    fields = structs.asdict(content).items()
    return content_hash(canonical({k: v for k, v in fields if k in always or k not in defaults or v != defaults[k]}))


def new_api_key(environment: str) -> str:
    """A new API key `pp_<environment>_<random><crc>`: 160 random bits, and a CRC-32 that detects typing errors."""
    body = f"pp_{environment}_{''.join(secrets.choice(_ALPHABET) for _ in range(28))}"
    return body + _crc(body)


def new_run() -> str:
    """A random id of a process's run, for events that belong to that run only."""
    return secrets.token_hex(16)


def is_well_formed_api_key(key: str) -> bool:
    """True if the key has the form and the check digits of an API key; it may still be unknown."""
    body, crc = key[:-8], key[-8:]
    return body.startswith("pp_") and body.count("_") >= 2 and crc == _crc(body)


def hash_api_key(key: str) -> str:
    """The stored form of a key: SHA-256, 64 hex digits. With 160 random bits, a slow hash adds no security."""
    return hashlib.sha256(key.encode()).hexdigest()


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, object]:
    return {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in structs.fields(kind)
        if not field.required
    }


def _crc(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def uuid_of(text: str) -> str | None:
    """The UUID in a text, None for other text."""
    try:
        return str(UUID(text))
    except ValueError:
        return None
