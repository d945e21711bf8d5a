"""Files and folders that only their owner can read: they hold personal data or keys."""

import os
from pathlib import Path
from typing import BinaryIO, Final, Literal

PRIVATE_UMASK: Final = 0o077
"""The umask of child processes, which create files of their own."""

_FLAGS: Final = {"wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND}


def make_private_folder(folder: Path) -> None:
    """Create a folder (0700) and its missing parents; one that exists keeps its mode."""
    if not folder.is_dir():
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def open_private(path: Path, mode: Literal["wb", "ab"]) -> BinaryIO:
    """Open a file to write or append; a new one gets mode 0600."""
    return os.fdopen(os.open(path, _FLAGS[mode], 0o600), mode)
