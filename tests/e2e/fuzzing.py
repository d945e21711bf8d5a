"""What Schemathesis does not know of itself: how a body of lines is sent."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_: schemathesis.SerializationContext, value: object) -> bytes:
    """Whatever it made up, as bytes."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
