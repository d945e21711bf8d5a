"""Errors for the person at the terminal. An expected failure (no network, a full disk, a wrong key, a missing address)
is a `UserError`: its caller prints it, never a traceback. Any other exception that leaves a command is a defect."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CLASS_NAMES: Final = re.compile(
    r"^(\[Err(no|or) -?\d+\] )?([A-Za-z_.]+(Error|Exception|Available|Timeout)\w*(:\s+|$))*"
)


def sentence(text: str) -> str:
    """The text with one full stop at its end, unless it ends with another mark."""
    text = re.sub(r"(?<!\.)\.\.$", ".", text.rstrip())
    return text if not text or text.rstrip("\"')]`")[-1:] in (*".!?:…",) else f"{text}."


def cause(error: BaseException) -> str:
    """The cause of an expected failure, in words for a person: without names of classes, and without a full stop."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.rstrip(".").lower()
    text = _CLASS_NAMES.sub("", str(error).strip()).partition("\n")[0].strip().rstrip(".")
    described = str(getattr(error, "description", "") or "").strip().rstrip(".")
    return text or described or "it gave no reason"


class UserError(Exception):
    """An expected failure: a sentence about it, a sentence about its remedy, and `lines` of details such as a log."""

    def __init__(self, what: str, what_to_do: str, lines: Sequence[str] = ()) -> None:
        super().__init__(what, what_to_do)
        self.what = what
        self.what_to_do = what_to_do
        self.lines = tuple(lines)

    def __str__(self) -> str:
        return "\n  | ".join([f"{sentence(self.what)} {sentence(self.what_to_do)}".rstrip(), *self.lines])


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
