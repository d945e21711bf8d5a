"""Base of all event payloads."""

import msgspec


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of everything that travels: immutable, keyword-only, defaults left out."""
