"""Ids that occur more than once, counted in bounded memory: SQLite keeps them in a private temporary file."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

_BATCH: Final = 5_000


class RepeatedIds(NamedTuple):
    """The number of `ids` that occur more than once, and the first of them with the numbers of two rows."""

    ids: int
    example: str = ""
    numbers: tuple[int, int] = (0, 0)


class IdCounter:
    """Counts ids. Create it with `counting_ids`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._pending: list[tuple[str, int]] = []
        database.execute("CREATE TABLE ids (id BLOB, number INTEGER)")

    def add(self, name: str, number: int) -> None:
        """Add the id of a row."""
        self._pending.append((name, number))
        if len(self._pending) >= _BATCH:
            self._write()

    def result(self) -> RepeatedIds:
        """The repeated ids so far."""
        self._write()
        repeated = "SELECT id, min(number) AS first FROM ids GROUP BY id HAVING count(*) > 1"
        [repeats] = self._database.execute(f"SELECT count(*) FROM ({repeated})").fetchone()  # noqa: S608 - a constant
        if not repeats:
            return RepeatedIds(0)
        name, first = self._database.execute(f"{repeated} ORDER BY first LIMIT 1").fetchone()
        [second] = self._database.execute(
            "SELECT min(number) FROM ids WHERE id = ? AND number > ?", (name, first)
        ).fetchone()
        return RepeatedIds(repeats, name.decode("utf-8", "surrogateescape"), (first, second))

    def _write(self) -> None:
        rows = ((name.encode("utf-8", "surrogateescape"), number) for name, number in self._pending)
        self._database.executemany("INSERT INTO ids VALUES (?, ?)", rows)
        self._pending.clear()


@contextmanager
def counting_ids() -> Iterator[IdCounter]:
    """A counter; its temporary file is deleted at the end."""
    database = sqlite3.connect("")  # a temporary database, in a file only if it is large
    try:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        yield IdCounter(database)
    finally:
        database.close()
