"""An operator who runs the commands of docs/runbooks/restore.md word for word gets every store back, while clients and
reviewers work: nothing accepted is lost, nothing is decided twice, no revoked key works (promises 1, 2, 4, 5)."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.stack import LocalStack
from deploy.local.system import System
from shared.postgres import outbox
from tests.conftest import project_root
from tests.e2e.drive import review_until
from tests.e2e.steps import item, until

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the commands of the page are for sh or bash"),
]

REGION: Final = "eu"
TITLES: Final = ("Desk lamp, brass", "Vintage switchblade", "Spy camera in a clock")  # approved, rejected, reviewed
INTAKE: Final = ("intake", "intake-projection")
BIN: Final = Path(sys.executable).parent
_BLOCK: Final = re.compile(r"^(?P<heading>#+ .*?)$|^ *```sh\n(?P<commands>.*?)^ *```$", re.DOTALL | re.MULTILINE)

_RELAY_ASKED: Final = f"""
SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE locktype = 'advisory' AND classid = {outbox.LOCK_CLASS} AND query LIKE '%FROM recovery%'"""  # noqa: S608 - constants


def page() -> dict[str, list[str]]:
    """The command blocks of the page, by the heading before them."""
    blocks: dict[str, list[str]] = {}
    heading = ""
    for match in _BLOCK.finditer((project_root() / "docs/runbooks/restore.md").read_text(encoding="utf-8")):
        if match["heading"] is not None:
            heading = match["heading"].lstrip("# ")
        else:
            blocks.setdefault(heading, []).append(match["commands"])
    return blocks


class Operator:
    """`make up` in one region in a folder of its own, and a terminal in which the commands of the page are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocks = page()
        self.used: set[str] = set()
        self.messages: list[str] = []
        (folder / ".venv").symlink_to(BIN.parent)
        self._running = ExitStack()
        self._starting: threading.Thread | None = None

    @property
    def data(self) -> Path:
        return self.folder / ".piepowder"

    def start(self, *, services: bool = True) -> None:
        """Start the servers, and the services; returns when the processes run, before they are ready."""
        self.stack = LocalStack(self.data, report=self.messages.append)
        self._running.enter_context(self.stack)
        if services:
            self.system = System(self.stack, [REGION], self.data, report=self.messages.append)
            self._running.callback(self.system.stop)
            self._starting = threading.Thread(target=self.system.start, kwargs={"stay": True}, daemon=True)
            self._starting.start()
            self.until(lambda: len(self.system.services) > 0 and (self.data / "profile.json").exists())

    def stop(self) -> None:
        """Ctrl-C."""
        self._running.close()
        if self._starting is not None:
            self._starting.join(30)

    def wait_ready(self) -> None:
        if self._starting is not None:
            self._starting.join(240)
        self.system.wait_ready()

    def until(self, reached: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.2)

    def run(self, *headings: str, database: str | None = None) -> str:
        """Run the blocks under these headings in order, after the variables of the page; returns the output."""
        printed = [block for heading in headings for block in self.blocks[heading]]
        self.used.update(headings)
        if database is not None:
            [printed[0]] = [re.sub(r"(?<=export DATABASE=)\S+", database, printed[0])]
        return self.shell(*self.blocks["Set the variables"], *printed)

    def shell(self, *commands: str) -> str:
        """Run commands; fails with their output unless each has the exit status 0."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PIEPOWDER_"))}
        began = time.monotonic()
        done = subprocess.run(
            ["/usr/bin/env", "bash", "-euc", "\n".join(commands)],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
        print(f"{time.monotonic() - began:.1f} s: {commands[-1].splitlines()[0]}")
        return done.stdout

    def restore(self, database: str) -> str:
        """Run the section that restores a database, as printed; returns the output of its checks."""
        began = time.monotonic()
        self.run("Restore a database", *self._steps[:3], database=database)
        print(f"{database} was restored in {time.monotonic() - began:.1f} s")
        return self.check(database) + self.run("Restore a database", self._steps[4], database=database)

    def check(self, database: str) -> str:
        return self.run("Restore a database", self._steps[3], database=database)

    @property
    def _steps(self) -> list[str]:
        steps = [heading for heading in self.blocks if re.match(r"\d\. ", heading)]
        assert [step[0] for step in steps] == ["1", "2", "3", "4", "5"]
        return steps

    def psql(self, statement: str, database: str = "postgres") -> str:
        variables = self.blocks["Set the variables"]
        return self.shell(*variables, f'psql "$POSTGRES_URL/{database}" --tuples-only --no-align -c "{statement}"')

    def unpublished(self) -> int:
        """The events in decision's outbox; the gauge is a few seconds late."""
        return int(self.psql("SELECT count(*) FROM outbox", f"piepowder_decision_{REGION}"))

    def relay_waits_for_kafka(self) -> bool:
        """True if decision's relay has read rows of the outbox: it sends these, and no others, before it reads again.

        The gate is asked after the rows are read, and only if there are some; it is the session's last statement until
        Kafka has acknowledged them.
        """
        return int(self.psql(_RELAY_ASKED)) > 0

    def submit(self, name: str, count: int = 60) -> None:
        """Submit items with `piepowder submit`, which notes them for the account; a third of them is for reviewers."""
        lines = [item(id=f"{name}-{n}", title=TITLES[n % len(TITLES)], text=f"Number {n}.") for n in range(count)]
        (self.folder / f"{name}.ndjson").write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
        self.shell(f".venv/bin/piepowder submit {name}.ndjson")

    def client(self) -> httpx.Client:
        return httpx.Client(headers={"Authorization": f"Bearer {self.system.key()}"}, timeout=10, trust_env=False)

    def metric(self, process: str, name: str) -> float:
        """The sum of a metric of a process over its labels."""
        with self.client() as client:
            text = client.get(f"{self.system.services[process].url}/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )

    def log(self) -> list[dict[str, Any]]:
        """All entries of the audit log."""
        found: list[dict[str, Any]] = []
        with self.client() as client:
            after: int | None = 0
            while after is not None:
                response = client.get(
                    f"{self.system.url('audit', REGION)}/v1/events", params={"after": after, "limit": 500}
                )
                assert response.status_code == 200, response.text
                body = response.json()
                found, after = found + body["events"], body["next"]
        return found


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    names = ("PIEPOWDER_KAFKA", "PIEPOWDER_DATABASE_URL")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    operator = Operator(tmp_path_factory.mktemp("restore"))
    try:
        operator.start()
        operator.wait_ready()
        operator.submit("before")
        yield operator
    finally:
        operator.stop()
        os.environ.update(kept)


@asynccontextmanager
async def reviewing(operator: Operator) -> AsyncIterator[None]:
    """A reviewer decides cases meanwhile."""
    done = asyncio.Event()
    reviewer = asyncio.create_task(review_until(operator.system, REGION, done))
    try:
        yield
    finally:
        done.set()
        await reviewer


async def work(operator: Operator, name: str) -> None:
    """Items are posted and decided by policy and by a reviewer, until no case waits."""
    async with reviewing(operator):
        await asyncio.to_thread(operator.submit, name)
        await asyncio.to_thread(until_no_case_waits, operator)


def until_no_case_waits(operator: Operator) -> None:
    decision, intake = operator.system.url("decision", REGION), operator.system.url("intake")
    with operator.client() as client:
        until(
            lambda: client.get(f"{decision}/v1/queues"),
            lambda body: not any(queue["waiting"] + queue["claimed"] for queue in body["queues"]),
        )
        until(
            lambda: client.get(f"{intake}/v1/totals"),
            lambda body: {"submitted", "in_review"}.isdisjoint(body["regions"][REGION]),
        )


def assert_sound(checks: str) -> None:
    """Require the output of the page's checks that means: nothing is wrong."""
    assert "Nothing has been without effect for longer than 10 minutes." in checks
    assert "0 MISSING" not in checks
    assert "every accepted item is accounted for; all" in checks, checks
    assert '"conflicts":[]' in checks, checks


def by_id(entries: list[dict[str, Any]]) -> Mapping[str, Any]:
    return {entry["id"]: (entry["type"], entry["subject"], entry["data"]) for entry in entries}


async def test_audit_is_restored_while_clients_and_reviewers_work(operator: Operator) -> None:
    operator.run("Back up")
    await work(operator, "audited")
    before = operator.log()
    assert len(before) > 300
    operator.psql(f"DROP DATABASE piepowder_audit_{REGION} WITH (FORCE)")
    async with reviewing(operator):
        await asyncio.to_thread(operator.submit, "audit-is-away")
        await asyncio.to_thread(operator.until, lambda: not operator.system.services[f"audit-{REGION}"].ready)
        checks = await asyncio.to_thread(operator.restore, f"piepowder_audit_{REGION}")
    assert_sound(checks)
    after = operator.log()
    assert by_id(before).items() <= by_id(after).items()
    assert [entry["seq"] for entry in after] == list(range(after[0]["seq"], after[0]["seq"] + len(after)))
    assert len({entry["id"] for entry in after}) == len(after)
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert operator.psql(owners, f"piepowder_audit_{REGION}") == "piepowder_services\n"


async def test_intake_is_restored_and_no_revoked_key_works_again(operator: Operator) -> None:
    intake = operator.system.url("intake")
    with operator.client() as client:

        def create(name: str) -> str:
            body = {"name": name, "scopes": ["items:read"], "regions": [REGION], "platforms": ["*"]}
            assert client.post(f"{intake}/v1/clients", json=body).status_code == 201
            key: str = client.post(f"{intake}/v1/clients/{name}/keys", json={}).json()["key"]
            return key

        def status(key: str) -> int:
            return httpx.get(f"{intake}/v1/totals", headers={"Authorization": f"Bearer {key}"}).status_code

        leaked, kept = create("leaked"), create("kept")
        assert (status(leaked), status(kept)) == (200, 200)
        operator.run("Back up")
        [key] = client.get(f"{intake}/v1/clients/leaked").json()["keys"]
        revoked = client.delete(f"{intake}/v1/clients/leaked/keys/{key['key_id']}")
        assert revoked.json()["in_force"] is True
        later = create("later")
        await work(operator, "followed")

        checks = await asyncio.to_thread(operator.restore, "piepowder_intake")
        assert_sound(checks)
        assert (status(leaked), status(kept), status(later)) == (401, 200, 200)
        harmless = client.patch(f"{intake}/v1/clients/leaked", json={"description": "a harmless change"})
        assert harmless.status_code == 200, harmless.text
        assert (status(leaked), status(kept), status(later)) == (401, 200, 200)
        restored = [operator.metric(name, "piepowder_intake_clients_restored_total") for name in INTAKE]
        assert sum(restored) >= 2
        listed = operator.run("After a restore of intake's database")
        assert all(name in listed for name in ("leaked", "kept", "later"))
        until_no_case_waits(operator)


async def test_decision_is_restored_and_nothing_is_decided_twice(operator: Operator) -> None:
    decision = operator.system.url("decision", REGION)
    with operator.client() as client:

        def claim(reviewer: str) -> dict[str, Any]:
            response = client.post(f"{decision}/v1/claims", json={"reviewer": reviewer, "team": "in_house"})
            assert response.status_code == 201, response.text
            found: dict[str, Any] = response.json()
            return found

        def decide(claimed: dict[str, Any], action: str) -> httpx.Response:
            reasons = ["COUNTERFEIT"] if action == "reject" else []
            body = {"lease_token": claimed["lease"]["token"], "action": action, "reasons": reasons}
            return client.post(f"{decision}/v1/cases/{claimed['case']['case_id']}/decisions", json=body)

        await asyncio.to_thread(operator.submit, "reviewed", 60)
        await asyncio.to_thread(
            until,
            lambda: client.get(f"{decision}/v1/queues"),
            lambda body: sum(queue["waiting"] for queue in body["queues"]) >= 20,
        )
        operator.run("Back up")
        decided = [claim("r-1") for _ in range(5)]
        made = [decide(claimed, ("approve", "reject")[n % 2]).json() for n, claimed in enumerate(decided)]
        held = claim("r-2")
        operator.until(lambda: operator.unpublished() == 0)
        [kafka] = [child for child in operator.stack.children() if "Kafka" in child.name]
        kafka.pause()
        on_its_way = claim("r-3")  # Kafka can append it when it continues
        operator.until(operator.relay_waits_for_kafka)
        lost = claim("r-5")
        assert operator.unpublished() == 2
        operator.psql(f"DROP DATABASE piepowder_decision_{REGION} WITH (FORCE)")
        kafka.resume()
        await asyncio.to_thread(operator.submit, "decision-is-away")

        checks = await asyncio.to_thread(operator.restore, f"piepowder_decision_{REGION}")
        assert_sound(checks)
        for before in made:
            found = client.get(f"{decision}/v1/cases/{before['case_id']}").json()
            assert found["state"] == "decided"
            assert [(one["decision_id"], one["action"]) for one in found["decisions"]] == [
                (before["decision_id"], before["action"])
            ]
        refused = decide(lost, "reject")
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "lost-in-restore")
        assert operator.metric(f"decision-{REGION}", "piepowder_decision_lost_in_restore_total") == 1
        assert decide(held, "reject").status_code == 201
        assert decide(on_its_way, "approve").status_code in (201, 409)
        tokens = {claimed["lease"]["token"] for claimed in (*decided, held, on_its_way, lost)}
        later = claim("r-4")
        assert later["lease"]["token"] > max(tokens)
        assert decide(later, "approve").status_code == 201
        operator.run("After a restore of decision's database")
    await work(operator, "after-recovery")
    assert_sound(await asyncio.to_thread(operator.check, f"piepowder_decision_{REGION}"))


async def test_every_database_is_restored_to_a_new_server(operator: Operator) -> None:
    operator.run("Back up")
    await work(operator, "since-the-backup")
    before = operator.log()
    operator.stop()
    shutil.rmtree(operator.data / "postgres")
    operator.start(services=False)
    operator.used.add("The whole PostgreSQL server was lost")
    operator.shell(*operator.blocks["The whole PostgreSQL server was lost"])
    operator.stop()
    operator.start()
    operator.wait_ready()
    for database in ("audit_eu", "decision_eu", "intake"):
        checks = await asyncio.to_thread(operator.check, f"piepowder_{database}")
        assert_sound(checks)
    assert by_id(before).items() <= by_id(operator.log()).items()
    until_no_case_waits(operator)


async def test_the_lost_brokers_are_replaced_by_empty_ones_and_the_files_by_copies(operator: Operator) -> None:
    operator.run("Back up")
    with operator.client() as client:
        key = client.get(f"{operator.system.url('intake')}/v1/totals").request.headers["Authorization"]
        statuses = client.get(f"{operator.system.url('intake')}/v1/totals").json()["regions"]
        body = {"name": "shop", "scopes": ["items:read"], "regions": [REGION], "platforms": ["*"]}
        assert client.post(f"{operator.system.url('intake')}/v1/clients", json=body).status_code == 201
        made = client.post(f"{operator.system.url('intake')}/v1/clients/shop/keys", json={}).json()["key"]
    first, second = operator.blocks["Local files"]
    operator.used.add("Local files")
    operator.shell(first)

    operator.stop()
    for name in ("key", "clients.json", "intake.key", "router.key"):
        (operator.data / name).unlink()
    shutil.rmtree(operator.data / "kafka")
    operator.shell(second)
    operator.start()

    def all_stopped() -> bool:
        found = [service.missing for service in operator.system.services.values() if service.spec.service.database]
        stopped = [missing for missing in found if "the topic was deleted and created again" in missing]
        return len(stopped) == len(found) - 1 and not any("waiting for its partitions" in missing for missing in found)

    operator.until(all_stopped)  # all but intake, whose clients' process reads no topic by position
    operator.run("Kafka was lost")
    operator.wait_ready()
    with operator.client() as client:
        assert client.headers["Authorization"] == key, "the key was restored"
        assert client.get(f"{operator.system.url('intake')}/v1/totals").json()["regions"] == statuses
        found = client.get(f"{operator.system.url('intake')}/v1/totals", headers={"Authorization": f"Bearer {made}"})
        assert found.status_code == 200, found.text
        number = client.get(f"{operator.system.url('router')}/v1/control").json()["policy_set"]["id"]
    assert number == re.findall(r"ps-\S+", (operator.folder / "backup" / "control.yaml").read_text())[0]
    await work(operator, "new-topics")
    types = [entry["type"] for entry in operator.log()]
    assert types.count("piepowder.loss.accepted.v1") > 30


def test_every_command_of_the_page_was_run(operator: Operator) -> None:
    left = set(operator.blocks) - operator.used
    assert left == {"Set the variables"}
