"""Where the commands of the documents are run, and which are not.

`tests/e2e/test_documented_commands.py` runs every block of commands (```sh) of every document on a local stack, as it
is printed. These lists have the exceptions; `tests/architecture/test_documented_commands.py` finds entries without a
block.
"""

from typing import Final, NamedTuple


class NotRun(NamedTuple):
    """A block that no test runs: its document, its first line, and the reason."""

    document: str
    first: str
    reason: str


RUN_ELSEWHERE: Final = {  # document -> the test that runs all of its commands
    "docs/intake-tour.md": "tests/e2e/test_documents.py",
    "docs/runbooks/record-storm.md": "tests/e2e/test_record_storm.py",
    "docs/runbooks/restore.md": "tests/e2e/test_restore.py",
}

_DOCKER: Final = "needs Docker; tests/architecture/test_compose.py and test_images.py check the files"
_LONG: Final = "takes from ten to forty minutes"
_DEPLOYMENT: Final = "needs a deployment with missing records; tests/e2e/test_recreated_topic.py does the same"
_REGISTRY: Final = "downloads packages of another client"

NOT_RUN: Final = (
    NotRun("README.md", "make test", "runs all tests, and so this one"),
    NotRun("README.md", ".venv/bin/piepowder review", "needs a person at a terminal"),
    NotRun("docs/architecture/command.md", ".venv/bin/piepowder review", "needs a person at a terminal"),
    NotRun("docs/architecture/deployment.md", "docker compose up --build --wait", _DOCKER),
    NotRun("docs/architecture/deployment.md", "docker compose exec postgres psql -U piepowder", _DOCKER),
    NotRun("docs/architecture/deployment.md", "export PIEPOWDER_PROFILE=deploy/docker/profile.yaml", _DOCKER),
    NotRun("docs/architecture/deployment.md", "docker compose run --rm --no-deps -T --entrypoint promtool", _DOCKER),
    NotRun("docs/performance.md", "make bench", _LONG),
    NotRun("docs/reliability.md", "make chaos", f"{_LONG}; tests/e2e/test_chaos_short.py runs the short form"),
    NotRun("docs/runbooks/missing-records.md", "piepowder positions accept-loss", _DEPLOYMENT),
    NotRun("docs/runbooks/missing-records.md", "piepowder positions init", _DEPLOYMENT),
    NotRun("docs/architecture/contracts.md", "kcat -b", "needs kcat, which no Python package has"),
    NotRun("docs/architecture/contracts.md", "npm install kafkajs", _REGISTRY),
    NotRun("docs/architecture/contracts.md", "pip install kafka-python", _REGISTRY),
)


def reason(document: str, first: str) -> str | None:
    """The reason why a block is not run; None if it is."""
    found = [one.reason for one in NOT_RUN if one.document == document and first.startswith(one.first)]
    return found[0] if found else None
