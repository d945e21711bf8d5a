"""Splits a body into lines while it arrives; the memory is limited to one line and one read."""

from typing import TypeAlias

NumberedLine: TypeAlias = tuple[int, bytes | None]
"""The number (from 1) and text of a line that is not blank; the text is None for a line above the limit."""


class LineSplitter:
    """Splits pieces of a body into lines; `limit` is the maximum length of a line in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = b""
        self._skipping = False
        self.number = 0  # the number of the last complete line

    def feed(self, data: bytes) -> list[NumberedLine]:
        """The lines that `data` completes."""
        if self._skipping and b"\n" not in data:
            return []
        *whole, self._tail = (self._tail + data).split(b"\n")
        lines = self._lines(whole)
        if len(self._tail) > self._limit:
            self._tail, self._skipping = b"", True
        return lines

    def end(self) -> list[NumberedLine]:
        """The last line of a body that does not end with a newline."""
        tail, self._tail = self._tail, b""
        return self._lines([tail])

    def _lines(self, texts: list[bytes]) -> list[NumberedLine]:
        lines: list[NumberedLine] = []
        limit, number = self._limit, self.number
        for text in texts:
            number += 1
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - the byte order mark is not part of the line
            if self._skipping or len(text) > limit:
                self._skipping = False
                lines.append((number, None))
            elif text and not text.isspace():
                lines.append((number, text))
        self.number = number
        return lines
