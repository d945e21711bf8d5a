"""JSON logs on standard error, one object per line: time, level, logger, message, service and `extra` fields."""

import logging
import sys
from datetime import UTC, datetime

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from shared.runtime.clock import to_text


class _Lines(JsonFormatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's
        return to_text(datetime.fromtimestamp(record.created, UTC))


def configure(service: str, level: str = "INFO") -> None:
    """Send the records of all loggers to standard error; of aiokafka and alembic, only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Lines(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"service": service},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiokafka").setLevel(max(logging.WARNING, logging.getLogger().level))
    logging.getLogger("alembic").setLevel(max(logging.WARNING, logging.getLogger().level))
