"""Promise 1 (accepted input is never lost): each setting that it needs has one place, and no code overrides it."""

import re

import pytest

from shared.kafka import topic_admin
from tests.architecture.containers import ROOT

PRODUCT = ("services", "shared", "piepowder", "deploy")


def files_with(pattern: str, *folders: str) -> set[str]:
    """The source files that contain a pattern."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if re.search(pattern, path.read_text())
    }


def test_only_the_shared_producer_writes_to_kafka() -> None:
    assert files_with(r"AIOKafkaProducer\(", *PRODUCT) == {"shared/kafka/producer.py"}


def test_a_service_connects_to_postgresql_only_through_shared_code() -> None:
    opening = r"asyncpg\.(connect|create_pool)\(|create_(async_)?engine\("
    assert files_with(opening, "services", "shared") == {
        "shared/postgres/database.py",
        "shared/postgres/migrations.py",
        "shared/postgres/poolers.py",  # checks the sessions at the start, and stores nothing
    }


def test_only_the_shared_database_module_sets_synchronous_commit() -> None:
    assert files_with("synchronous_commit", "services", "shared") == {"shared/postgres/database.py"}


def test_only_closed_sessions_have_state_because_no_connection_is_reset_when_it_is_released() -> None:
    with_session = {"shared/postgres/outbox.py", "services/decision/store/recovery.py"}
    state = r"\"SET (?!LOCAL)|\bLISTEN\b|pg_(try_)?advisory_lock|set_config\([^()]*false\)|CREATE TEMP"
    assert files_with(state, "services", "shared") == with_session
    assert files_with(r"\.session\(\)", "services", "shared") == with_session


def test_no_deployment_makes_postgresql_report_a_commit_before_it_is_on_disk() -> None:
    files = [ROOT / "docker-compose.yml", *(path for path in (ROOT / "deploy").rglob("*") if path.suffix != ".pyc")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in files if path.is_file()}
    assert "deploy/local/postgres.py" in texts
    weak = r"(synchronous_commit|fsync|full_page_writes)\W+(off|false|local|remote_write)"
    assert [name for name, text in texts.items() if re.search(weak, text)] == []


@pytest.mark.parametrize("spec", topic_admin.load(), ids=lambda spec: spec.name)
def test_every_topic_keeps_an_acknowledged_record_when_one_broker_is_lost(spec: topic_admin.TopicSpec) -> None:
    assert spec.replication == 3
    assert spec.config["min.insync.replicas"] == "2"
    assert "unclean.leader.election.enable" not in spec.config
