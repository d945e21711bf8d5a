"""Ids that repeat themselves: a retry, a replay or a crash between two steps derives the same ids again.

Every id is a UUIDv5 (RFC 9562) over what it stands for. Secrets are the one exception and come from the system's
random source.

A content hash decides whether a retry is the same call, so it must survive an upgrade between the two. Therefore an
optional field at its default is left out: a field that is added later changes no hash of content that does not use it.
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
_SEPARATOR: Final = "\x1f"  # ASCII unit separator: refused in every part by intake, so that parts cannot run together
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # its two high bits are 10
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"


def derive(*parts: str) -> str:
    """The UUIDv5 of `parts`, as text; equals `uuid.uuid5(NAMESPACE, "\\x1f".join(parts))`, faster."""
    hashed = _BEGUN.copy()
    hashed.update(_SEPARATOR.join(parts).encode())
    h = hashed.hexdigest()
    return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}"


def item_id(platform: str, kind: str, subject_id: str, version: str) -> str:
    """One posted version of a subject; `version` is the client's number as text, or the content's hash."""
    return derive("item", platform, kind, subject_id, version)


def notice_id(client: str, subject: str, reference: str) -> str:
    """What a client calls `reference` among its notices about a subject (`platform:kind:id`)."""
    return derive("notice", client, subject, reference)


def appeal_id(client: str, region: str, subject: str, reference: str) -> str:
    """What a client calls `reference` among its appeals about a region's decisions on a subject."""
    return derive("appeal", client, region, subject, reference)


def case_id(item: str, region: str, case_type: str) -> str:
    """One unit of work about an item, a notice or an appeal in a region."""
    return derive("case", item, region, case_type)


def event_id(cause: str, event_type: str, n: int | str = 0) -> str:
    """The n-th event of a type that `cause` (an event's id, or what a first event stands for) brings about."""
    return derive("event", cause, event_type, str(n))


def decision_id(case: str, n: int) -> str:
    """The n-th decision of a case, from 1."""
    return derive("decision", case, str(n))


def canonical(content: object) -> bytes:
    """Content as JSON in one spelling: a struct's fields in their order without defaults, mappings sorted by key."""
    return _encode(content)


def content_hash(content: bytes) -> str:
    """SHA-256 of a canonical encoding, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def struct_hash(content: msgspec.Struct, *, always: Collection[str]) -> str:
    """The hash of a struct's fields, sorted by name, without those that equal their default.

    `always` names the optional fields of the first version: its hash has them at their default too, and hashes are
    stored. Do not add a field to it.
    """
    defaults = _defaults(type(content))
    fields = structs.asdict(content).items()
    return content_hash(canonical({k: v for k, v in fields if k in always or k not in defaults or v != defaults[k]}))


def new_api_key(environment: str) -> str:
    """A fresh API key `pp_<environment>_<random><crc>`: 160 random bits, then a CRC-32 that catches typing errors."""
    body = f"pp_{environment}_{''.join(secrets.choice(_ALPHABET) for _ in range(28))}"
    return body + _crc(body)


def new_run() -> str:
    """A name for one run of a process: random, for events that stand for nothing but a moment of that run."""
    return secrets.token_hex(16)


def is_well_formed_api_key(key: str) -> bool:
    """Whether `key` has the form and the check digits of an API key (says nothing about whether it is known)."""
    body, crc = key[:-8], key[-8:]
    return body.startswith("pp_") and body.count("_") >= 2 and crc == _crc(body)


def hash_api_key(key: str) -> str:
    """What is kept of a key: its SHA-256, 64 hex digits (the key has 160 random bits, so a slow hash adds nothing)."""
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
