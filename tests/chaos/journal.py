"""The calls of the clients and their responses, one line each, written before the client acts on a response."""

import time
from pathlib import Path
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


class Journal:
    """Appends lines; the operating system has the whole line when a method returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._n = 0

    def sent(self, call: str, facts: dict[str, Any]) -> int:
        """Record a call before it is sent; return its number."""
        self._n += 1
        self._write({"what": "sent", "n": self._n, "at": time.time(), "call": call, "facts": facts})
        return self._n

    def answered(self, n: int, status: int, retry_after: str | None, answer: Any) -> None:
        """Record a response."""
        about = {"n": n, "at": time.time(), "status": status, "retry_after": retry_after, "answer": answer}
        self._write({"what": "answered", **about})

    def lost(self, n: int, error: str) -> None:
        """Record that a call had no response: its effect is unknown."""
        self._write({"what": "lost", "n": n, "at": time.time(), "error": error})

    def planted(self, kind: str, topic: str, partition: int, offset: int, groups: list[str]) -> None:
        """Record a planted bad record and the groups that must dead-letter it."""
        place = {"topic": topic, "partition": partition, "offset": offset}
        self._write({"what": "planted", "at": time.time(), "kind": kind, **place, "groups": groups})

    def noted(self, kind: str, facts: dict[str, Any]) -> None:
        """Record what an operator's action did, so that the checker can compare it with what the system reported."""
        self._write({"what": "noted", "at": time.time(), "kind": kind, "facts": facts})

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(_encode(entry) + b"\n")
