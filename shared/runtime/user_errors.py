"""Errors for the person at the terminal. An expected failure (no network, a full disk, a wrong key, a missing address)
is a `UserError`: its caller prints it, never a traceback. Any other exception that leaves a command is a defect."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """An expected failure: a sentence about it, a sentence about its remedy, and `lines` of details such as a log."""

    def __init__(self, what: str, what_to_do: str, lines: Sequence[str] = ()) -> None:
        super().__init__(what, what_to_do)
        self.what = what
        self.what_to_do = what_to_do
        self.lines = tuple(lines)

    def __str__(self) -> str:
        return "\n  | ".join([f"{self.what} {self.what_to_do}".rstrip(), *self.lines])


def disk_full(path: Path) -> UserError:
    return UserError(
        f"The disk that holds {path} is full.", "Free some space there, or choose a folder on another disk."
    )


@contextmanager
def file_errors(path: Path, what_to_do: str = "Choose another folder.") -> Iterator[None]:
    """Turn an `OSError` about files at or under `path` into a `UserError`; `what_to_do` is its advice."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{error.filename or path} cannot be written ({error.strerror}).",
                f"{what_to_do.removesuffix('.')}, one that belongs to you, or correct its permissions.",
            ) from error
        raise UserError(f"{error.filename or path} cannot be used ({error.strerror}).", what_to_do) from error
