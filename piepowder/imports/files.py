"""The submitted file: opened, decompressed and seekable, so that it can be read twice.

Standard input, pipes and compressed files are copied into a temporary file without a name, which only this process can
read.
"""

import gzip
import shutil
import stat
import sys
import tempfile
import zlib
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from shared.runtime.user_errors import UserError, file_errors

_GZIP: Final = b"\x1f\x8b"


class InputFile:
    """An open file (`-` is standard input) of `size` bytes, of which `position` were read."""

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else name
        with file_errors(Path(tempfile.gettempdir()), "Choose another folder with TMPDIR."):
            self.file: BinaryIO = self._opened(name)
        self.size = self.file.seek(0, 2)
        self.file.seek(0)

    @property
    def position(self) -> int:
        return 0 if self.file.closed else self.file.tell()

    def start(self) -> BinaryIO:
        """The file at its beginning."""
        self.file.seek(0)
        return self.file

    def head(self, size: int = 65_536) -> bytes:
        """The first `size` bytes."""
        return self.start().read(size)

    def close(self) -> None:
        self.file.close()

    def _opened(self, name: str) -> BinaryIO:
        if name == "-":
            return self._copied(sys.stdin.buffer)
        try:
            file = Path(name).open("rb")  # noqa: SIM115 - closed by close()
            is_regular = stat.S_ISREG(Path(name).stat().st_mode)
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror}).", "Name a file of listings.") from error
        if is_regular and file.peek(2)[:2] != _GZIP:
            return file
        with file:
            return self._copied(file)

    def _copied(self, stream: IO[bytes]) -> BinaryIO:
        copy = _copy(stream, self.name)
        is_compressed = copy.read(2) == _GZIP
        copy.seek(0)
        if not is_compressed:
            return copy
        with copy, gzip.open(copy) as unpacked:
            return _copy(cast("IO[bytes]", unpacked), self.name)


def _copy(source: IO[bytes], name: str) -> BinaryIO:
    """A temporary file with the content of a stream, at its beginning."""
    copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by its user
    try:
        shutil.copyfileobj(source, copy, 2**20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        copy.close()
        raise UserError(
            f"{name} cannot be decompressed to its end ({str(error).rstrip('.')}).", "Compress it again with gzip."
        ) from error
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy
