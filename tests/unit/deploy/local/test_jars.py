"""Only complete jars of the list are used; missing or broken ones are downloaded again."""

import hashlib
import threading
from pathlib import Path, PurePosixPath

import pytest

from deploy.local.jars import fetch_jars, read_list, user_cache
from shared.runtime.user_errors import UserError

CONTENTS = {PurePosixPath(f"org/example/{name}/1/{name}-1.jar"): name.encode() * 1000 for name in ("one", "two")}
WANTED = {path: hashlib.sha256(content).hexdigest() for path, content in CONTENTS.items()}


class Repository:
    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.content = dict(CONTENTS)

    def fetch(self, path: PurePosixPath, folder: Path) -> Path:
        self.fetched.append(path.name)
        folder.mkdir()
        jar = folder / path.name
        jar.write_bytes(self.content[path])
        return jar

    def fetch_all(self, cache: Path) -> list[Path]:
        return fetch_jars(report=lambda _: None, cache=cache, wanted=WANTED, fetch=self.fetch)


def test_jars_are_downloaded_once(tmp_path: Path) -> None:
    repository = Repository()
    jars = repository.fetch_all(tmp_path)
    assert repository.fetch_all(tmp_path) == jars
    assert [jar.read_bytes() for jar in jars] == list(CONTENTS.values())
    assert sorted(repository.fetched) == ["one-1.jar", "two-1.jar"]
    assert {path.name for path in (tmp_path / "kafka").iterdir()} == {"one-1.jar", "two-1.jar", "lock"}


@pytest.mark.parametrize("broken", [b"", b"one" * 999, b"eno" * 1000])
def test_a_broken_jar_is_downloaded_again(tmp_path: Path, broken: bytes) -> None:
    repository = Repository()
    first, _ = repository.fetch_all(tmp_path)
    first.write_bytes(broken)
    repository.fetched.clear()
    repository.fetch_all(tmp_path)
    assert repository.fetched == ["one-1.jar"]
    assert first.read_bytes() == b"one" * 1000


def test_a_jar_with_a_wrong_hash_is_never_used(tmp_path: Path) -> None:
    repository = Repository()
    repository.content[next(iter(CONTENTS))] = b"something else"
    with pytest.raises(UserError, match=r"one-1\.jar does not have the listed SHA-256"):
        repository.fetch_all(tmp_path)
    assert not (tmp_path / "kafka" / "one-1.jar").exists()


def test_without_network_the_error_says_so_and_finished_downloads_are_kept(tmp_path: Path) -> None:
    repository = Repository()

    def fetch(path: PurePosixPath, folder: Path) -> Path:
        if path.name.startswith("two"):
            raise UserError(f"{path.name} could not be downloaded.", "Is there a network?")
        return repository.fetch(path, folder)

    with pytest.raises(UserError, match=r"two-1\.jar could not be downloaded\. Check the network"):
        fetch_jars(report=lambda _: None, cache=tmp_path, wanted=WANTED, fetch=fetch)
    repository.fetched.clear()
    repository.fetch_all(tmp_path)
    assert repository.fetched == ["two-1.jar"]


def test_the_error_of_an_unusable_cache_names_the_variable_for_another_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Set PIEPOWDER_CACHE to another folder"):
        Repository().fetch_all(tmp_path / "file" / "cache")


def test_two_starts_at_the_same_time_download_each_jar_once(tmp_path: Path) -> None:
    repository = Repository()
    both = [threading.Thread(target=repository.fetch_all, args=(tmp_path,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(repository.fetched) == ["one-1.jar", "two-1.jar"]


def test_the_committed_list_names_one_kafka_with_its_own_clients_and_a_logging_binding() -> None:
    names = [path.name for path in read_list()]
    assert len(set(names)) == len(names)
    assert "kafka_2.13-4.3.1.jar" in names
    assert [name for name in names if name.startswith("kafka-clients-")] == ["kafka-clients-4.3.1.jar"]
    assert any(name.startswith("log4j-slf4j-impl-") for name in names)


def test_the_cache_is_in_the_users_folder_unless_the_variable_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIEPOWDER_CACHE", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.delenv("PIEPOWDER_CACHE")
    assert user_cache().name == "piepowder"


def test_a_download_of_many_jars_reports_no_line_for_each_jar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {PurePosixPath(f"org/example/j{n}/1/j{n}-1.jar"): b"%d" % n for n in range(46)}
    wanted = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    repository = Repository()
    repository.content = contents
    lines: list[str] = []
    assert len(fetch_jars(report=lines.append, cache=tmp_path, wanted=wanted, fetch=repository.fetch)) == 46
    assert lines == [f"Kafka: downloading 46 of 46 jars to {tmp_path / 'kafka'}"]
    assert ".jar" not in "".join(capsys.readouterr())
