"""The gate of a region's database: which state of a restore it is in, checked in each transaction that needs it.

The row `recovery` names the database for which the service has read its own topic, and the one for which claims and the
relay are open. A restored copy of the row names the original, so the gate of a restored database is closed from the
start, also for connections that are open already. A restore into the same database creates the table again, which has
another oid then, or sets the outbox's sequence back; both are compared in each transaction. After a start of the
server, the gate of each of its databases is closed too: the files may be an older copy, in which the sequence need not
be lower, because PostgreSQL logs it 32 values ahead.
"""

from typing import Final

from services.decision.domain import rejections
from services.decision.domain.recovery import RecoveryState, first_token
from shared.postgres.database import Connection
from shared.runtime.errors import Transient

# The server and its start (an older copy of its files may have been put back before it), its timeline (a promotion or a
# recovery to a point in time changes it), the database, and the table (a dump that is loaded into the same database
# creates it again).
IDENTITY: Final = """(SELECT system_identifier FROM pg_control_system()) || '/'
    || extract(epoch FROM pg_postmaster_start_time()) || '/'
    || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/'
    || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || 'recovery'::regclass::oid"""

# The subquery takes the lock ROW SHARE on the table until the transaction ends, without a lock on the row. PostgreSQL
# takes it before the snapshot of the statement: a statement that had to wait for `set_incomplete` reads its result.
_STATE: Final = f"""
WITH gate AS (SELECT FROM recovery WHERE false FOR KEY SHARE)
SELECT incarnation, is_incomplete, {IDENTITY} AS identity, read_for, opened_for, last_value,
       EXISTS (SELECT FROM events_without_case)
FROM recovery, outbox_id_seq"""  # noqa: S608 - constants


async def read_state(connection: Connection) -> RecoveryState:
    """The state of the connection's database; raises Transient for a database without one.

    It cannot become incomplete before the transaction ends (`RecoveryStore.set_incomplete` waits).
    """
    row = await connection.fetchrow(_STATE)
    if row is None:
        raise Transient("The database has no row `recovery`: restore it again.")
    return RecoveryState(*row)


class Gate:
    """A process's view of the gate. It is closed until `pass_on` is called, and after a sign of a restore."""

    def __init__(self) -> None:
        self._checked = False
        self._state: RecoveryState | None = None

    @property
    def is_checked(self) -> bool:
        """True after `pass_on`, until `suspend`. The gate is then open if the row says so."""
        return self._checked

    @property
    def last(self) -> RecoveryState | None:
        """The latest state that this process has seen. To compare a state with it, take it before the statement that
        reads the state."""
        return self._state

    def suspend(self) -> None:
        """Close until the database is checked."""
        self._checked = False

    def pass_on(self, state: RecoveryState) -> None:
        """Let the row of this database decide."""
        self._checked, self._state = True, state

    async def may_publish(self, connection: Connection) -> bool:
        """True if the relay may publish the outbox of this connection's database."""
        state = await self._look(connection)
        return state is not None and state.is_open

    async def require_open(self, connection: Connection) -> int:
        """The lowest token of new claims; raises InputRejected (503) while claims and decisions are closed."""
        state = await self._look(connection)
        if state is None or not state.is_open:
            raise rejections.RECOVERING.with_message(rejections.RECOVERING.example, retry_after=_RETRY_SECONDS)
        return first_token(state.incarnation)

    async def require_read(self, connection: Connection) -> RecoveryState:
        """The state of the database; raises Transient until the own topic is read."""
        state = await self._look(connection)
        if state is None or not state.is_read:
            raise Transient("The database was restored, or the service has started: its own topic is read first.")
        return state

    async def _look(self, connection: Connection) -> RecoveryState | None:
        last = self._state  # before the statement: another connection may get a later state first
        if not self._checked or last is None:
            return None
        state = await read_state(connection)
        if state.has_changed_since(last):
            self.suspend()
            return None
        if self.is_checked and state.written >= self._written():
            self._state = state
        return state

    def _written(self) -> int:
        return -1 if self._state is None else self._state.written


_RETRY_SECONDS: Final = 5
