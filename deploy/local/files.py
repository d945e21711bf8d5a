"""The few things done to files here that must survive a crash in the middle or a second process at the same time:
a write that is whole or absent, and a lock that the kernel frees when its holder dies, however it dies."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.errors import StackError

if sys.platform != "win32":
    import fcntl


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write `text` to `path` so that a reader sees the old content or the new, never a part."""
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
    """An exclusive lock on a folder, held by the process and freed with it; the file names the holder's pid."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises `StackError`, naming the holder, when another process (or another stack here) has it."""
        descriptor = self._try()
        if descriptor is None:
            raise StackError(
                f"The folder {self._path.parent} is in use by process {self._holder()}.",
                "Stop that one first, or choose another folder.",
            )
        self._descriptor = descriptor

    @contextmanager
    def waiting(self, timeout: float) -> Iterator[None]:
        """Hold the lock for a block, waiting `timeout` seconds for another holder at most."""
        deadline = time.monotonic() + timeout
        while (descriptor := self._try()) is None:
            if time.monotonic() > deadline:
                raise StackError(
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
            raise StackError("The local stack does not run on Windows itself.", "Run it in WSL.")
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
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
