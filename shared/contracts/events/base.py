"""Base of all event payloads."""

import msgspec


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all event data: immutable, keyword-only, without fields that have their default."""
