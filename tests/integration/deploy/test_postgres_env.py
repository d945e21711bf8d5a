"""The variables for PostgreSQL's programs: they work in a shell, and show no password where other users can see it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import postgres_env
from deploy.local.databases import PASSWORD_FILE
from shared.runtime.user_errors import UserError
from tests.conftest import project_root
from tests.support.servers import Servers


def test_the_programs_connect_with_these_variables(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIEPOWDER_DATABASE_URL", servers.database_url)
    (tmp_path / PASSWORD_FILE).touch()
    command = f'eval "$({sys.executable} -m deploy.local.postgres_env --folder {tmp_path})"\n'
    command += 'psql "$POSTGRES_URL/postgres" --tuples-only --no-align --command="SELECT current_user, 1"\n'
    command += 'pg_dump --version; echo "$POSTGRES_ROLE $POSTGRES_URL"'
    sh = shutil.which("sh")
    assert sh is not None
    done = subprocess.run([sh, "-euc", command], cwd=project_root(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, version, variables = done.stdout.splitlines()
    assert first.endswith("|1")
    assert version.startswith("pg_dump (PostgreSQL) 18")
    assert variables.startswith("piepowder_services postgresql://")
    [password] = [part.rpartition(":")[2] for part in [servers.database_url.rpartition("@")[0]]]
    assert password
    assert password not in variables


def test_a_folder_without_a_running_server_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIEPOWDER_DATABASE_URL", raising=False)
    with pytest.raises(UserError, match=r"Start the system with `make up`, or the servers alone"):
        list(postgres_env.exports(tmp_path))
