"""What can go wrong on somebody's machine, said in words. Every failure that is to be expected (no network, a taken
port, a full disk, a broken cache, no Java, a folder in use) leaves this package as a `StackError`, so that a caller
prints it and never a traceback; anything else that escapes is a bug of ours."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class StackError(Exception):
    """An expected failure: one sentence says what happened, one says what to do; `lines` end a child's log."""

    def __init__(self, what: str, what_to_do: str, lines: Sequence[str] = ()) -> None:
        super().__init__(what, what_to_do)
        self.what = what
        self.what_to_do = what_to_do
        self.lines = tuple(lines)

    def __str__(self) -> str:
        return "\n  | ".join([f"{self.what} {self.what_to_do}", *self.lines])


def disk_full(path: Path) -> StackError:
    return StackError(
        f"The disk that holds {path} is full.", "Free some space there, or choose a folder on another disk."
    )


@contextmanager
def expected(path: Path, elsewhere: str = "Choose another folder.") -> Iterator[None]:
    """Turn an `OSError` about files at or under `path` into a `StackError`; `elsewhere` says how to name another."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StackError(
                f"{error.filename or path} may not be written ({error.strerror}).",
                f"{elsewhere.removesuffix('.')}, one that belongs to you, or correct its permissions.",
            ) from error
        raise StackError(f"{error.filename or path} cannot be used ({error.strerror}).", elsewhere) from error
