"""Insertion of rows in the cheaper of two ways.

COPY costs least for each row, but needs several messages and looks up the types of the columns: a single row costs two
to three times as much as with INSERT (docs/performance.md#cheap-gains).
"""

from collections.abc import Sequence
from typing import Any, Final

from shared.postgres.database import Connection

FEW: Final = 8
"""Up to so many rows, INSERT costs less than COPY."""


async def insert(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows into a table; the names of the table and of its columns are constants of the code."""
    if len(rows) > FEW:
        await connection.copy_records_to_table(table, records=rows, columns=columns)
    elif rows:
        values = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
        await connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})", rows)  # noqa: S608 - constants
