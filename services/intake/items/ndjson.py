"""A body of lines, split as it arrives, in memory bounded by one line and one read."""

from typing import TypeAlias

Line: TypeAlias = tuple[int, bytes | None]
"""A line that is not blank: its number from 1, and its text, None when it is longer than the limit."""


class LineSplitter:
    """Feed it what arrives; it gives back the lines that are whole. `limit` is a line's longest, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = b""
        self._skipping = False
        self.number = 0  # of the last whole line

    def feed(self, data: bytes) -> list[Line]:
        """The lines that `data` ends."""
        if self._skipping and b"\n" not in data:
            return []
        *whole, self._tail = (self._tail + data).split(b"\n")
        lines = self._lines(whole)
        if len(self._tail) > self._limit:
            self._tail, self._skipping = b"", True
        return lines

    def end(self) -> list[Line]:
        """The last line, when the body does not end with a line end."""
        tail, self._tail = self._tail, b""
        return self._lines([tail])

    def _lines(self, texts: list[bytes]) -> list[Line]:
        lines: list[Line] = []
        limit, number = self._limit, self.number
        for text in texts:
            number += 1
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - the byte order mark is not the line's
            if self._skipping or len(text) > limit:
                self._skipping = False
                lines.append((number, None))
            elif text and not text.isspace():
                lines.append((number, text))
        self.number = number
        return lines
