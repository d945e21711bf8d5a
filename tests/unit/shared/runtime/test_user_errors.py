"""Errors for people: sentences and the last lines of a log."""

import errno
import os
from pathlib import Path

import pytest

from shared.runtime.user_errors import UserError, file_errors


def test_an_error_is_two_sentences_and_the_last_lines() -> None:
    assert str(UserError("It broke.", "Mend it.")) == "It broke. Mend it."
    assert str(UserError("It broke.", "Mend it.", ["one", "two"])) == "It broke. Mend it.\n  | one\n  | two"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EACCES, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.ENOTDIR, "cannot be used"),
    ],
)
def test_an_error_of_the_file_system_becomes_a_sentence(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(UserError, match=words), file_errors(tmp_path):
        raise OSError(code, os.strerror(code))
