"""A correction of aiokafka under uvloop: a write to a connection that the broker has just closed.

asyncio ignores such a write, and aiokafka learns of the end from its reader. uvloop raises RuntimeError, which aiokafka
does not catch (https://github.com/aio-libs/aiokafka/issues/1038): a REST call ended with status 500. The connection
below raises the same error as for every other broken connection.
"""

from typing import Any

from aiokafka import conn
from aiokafka.errors import KafkaConnectionError


class _Connection(conn.AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types for it
    def send(self, request: Any, expect_response: bool = True) -> Any:
        writer = self._writer
        try:
            return super().send(request, expect_response)
        except RuntimeError as error:
            if writer is None or not writer.is_closing():
                raise
            self.close(reason=conn.CloseReason.CONNECTION_BROKEN, exc=error)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error


def report_closed_connections() -> None:
    """Let all Kafka clients of this process use these connections."""
    conn.AIOKafkaConnection = _Connection
