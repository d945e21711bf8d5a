"""File operations that survive a crash and a second process: an atomic write, and a lock that the kernel releases when
its holder ends, in any way. All files of the local stack hold personal data or keys: only
their owner may read them."""

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.runtime.user_errors import UserError

if sys.platform != "win32":
    import fcntl


_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private(folder: Path) -> None:
    """Take the rights of group and others from a folder and everything in it: an earlier version gave them."""
    for path in (folder, *folder.rglob("*")):
        try:
            mode = path.lstat().st_mode
            if mode & _OTHERS and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
        except FileNotFoundError:
            continue  # removed meanwhile


def write_whole(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write `text` to `path` atomically: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class FolderLock:
    """An exclusive lock on a folder, released when the process ends; the file has the holder's process id."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Acquire the lock; raises `UserError`, with the holder, when another process or stack has it."""
        descriptor = self._try()
        if descriptor is None:
            raise UserError(
                f"The folder {self._path.parent} is in use by process {self._holder()}.",
                "See it with `piepowder status`, stop it with Ctrl-C in its terminal, or choose another --folder.",
            )
        self._descriptor = descriptor

    @contextmanager
    def waiting(self, timeout: float) -> Iterator[None]:
        """Hold the lock for a block; wait at most `timeout` seconds for another holder."""
        deadline = time.monotonic() + timeout
        while (descriptor := self._try()) is None:
            if time.monotonic() > deadline:
                raise UserError(
                    f"Process {self._holder()} has kept {self._path} for {timeout:.0f} seconds.",
                    "Wait for it or end it, then try again.",
                )
            time.sleep(0.1)
        self._descriptor = descriptor
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self) -> int | None:
        if sys.platform == "win32":
            raise UserError("The local stack does not run on Windows itself.", "Run it in WSL.")
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _holder(self) -> str:
        return self._path.read_text(encoding="utf-8").strip() or "(unknown)"
