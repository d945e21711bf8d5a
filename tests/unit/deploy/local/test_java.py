"""The search for Java."""

from pathlib import Path

import pytest

from deploy.local.java import find_java, java_version
from shared.runtime.user_errors import UserError


def test_the_java_that_the_variable_names_must_be_recent_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    monkeypatch.setenv("PIEPOWDER_JAVA", str(java))
    with pytest.raises(UserError, match="not a Java 17 or later"):
        find_java()
    for version, major in (("1.8.0_402", 8), ("11.0.2", 11), ("25", 25)):
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        java.chmod(0o755)
        assert java_version(java) == major
    assert find_java() == java
