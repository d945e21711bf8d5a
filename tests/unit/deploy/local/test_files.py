"""Whole writes of files, and the lock of a folder."""

import multiprocessing
import threading
from pathlib import Path

import pytest

from deploy.local.files import FolderLock, write_whole
from shared.runtime.user_errors import UserError


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udc80")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _hold(path: Path, held: "multiprocessing.synchronize.Event") -> None:
    FolderLock(path).acquire()
    held.set()
    threading.Event().wait(60)


def test_a_lock_names_its_holder_and_is_released_when_the_holder_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held))
    holder.start()
    try:
        assert held.wait(20)
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            FolderLock(tmp_path / "lock").acquire()
    finally:
        holder.kill()
        holder.join()
    lock = FolderLock(tmp_path / "lock")
    lock.acquire()
    lock.release()
