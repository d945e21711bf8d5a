"""`python -m deploy.local.postgres_env`: shell commands that let `pg_dump` and `psql` use the local stack's PostgreSQL:
eval "$(.venv/bin/python -m deploy.local.postgres_env)".

They put the programs of the stack's own PostgreSQL first in PATH, because `pg_dump` of an older version refuses its
server. They set POSTGRES_URL, the server's URL for its administrator, without password and database; PGPASSWORD, the
password, which is so in no list of processes; and POSTGRES_ROLE, the role of the services, which owns their databases.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from deploy.local.databases import PASSWORD_FILE, plain_url, role_of
from deploy.local.postgres import program_folder, responds, url_in
from piepowder.profile import local_folder
from shared.runtime.user_errors import UserError

_HOW_TO_START: Final = (
    "Start the system with `make up`, or the servers alone with `.venv/bin/python -m deploy.local`, or name its folder"
    " with --folder."
)


def exports(folder: Path) -> Iterator[str]:
    """Lines of a POSIX shell; raises `UserError` if the PostgreSQL of the stack in `folder` does not respond."""
    url = os.environ.get("PIEPOWDER_DATABASE_URL") or url_in(folder / "postgres")
    if not url or not responds(plain_url(url)):
        raise UserError(f"No PostgreSQL responds whose data is in {folder}.", _HOW_TO_START)
    parts = urlsplit(plain_url(url))
    user = parts.username or ""
    server = parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}", path="", query="")
    values = {
        "POSTGRES_URL": server.geturl(),
        "POSTGRES_ROLE": role_of() if (folder / PASSWORD_FILE).exists() else user,
        "PGPASSWORD": unquote(parts.password or ""),
    }
    yield f'export PATH={shlex.quote(str(program_folder()))}:"$PATH"'
    for name, value in values.items():
        yield f"export {name}={shlex.quote(value)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.postgres_env",
        description="Write shell commands that let pg_dump, pg_restore and psql use the local stack's PostgreSQL.",
    )
    parser.add_argument("--folder", type=Path, default=local_folder(None), help="the folder of the data")
    try:
        for line in exports(parser.parse_args().folder):
            print(line)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
