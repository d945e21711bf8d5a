"""The serialization of NDJSON bodies for Schemathesis."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_: schemathesis.SerializationContext, value: object) -> bytes:
    """The generated value as bytes."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
