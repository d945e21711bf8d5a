"""A URL that is shown has no password."""

import pytest

from shared.runtime.passwords import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://anna@db:5432/audit", "postgresql://anna@db:5432/audit"),
        ("postgresql://db:5432/audit?sslmode=require", "postgresql://db:5432/audit?sslmode=require"),
        ("postgresql:///audit", "postgresql:///audit"),
        ("postgresql://anna:secret@db:5432/audit", "postgresql://anna@db:5432/audit"),
        ("postgresql://anna:se:cr@et@db:5432/audit", "postgresql://anna@db:5432/audit"),
        ("postgresql://:secret@db/audit", "postgresql://@db/audit"),
        ("postgresql://db/audit?password=secret", "postgresql://db/audit"),
        ("postgresql:///audit?host=/run&password=secret", "postgresql:///audit?host=/run"),
        ("postgresql://db/audit?password=secret&sslmode=require", "postgresql://db/audit?sslmode=require"),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert without_password(url) == shown
