"""The environment of a new machine: one sentence names a missing requirement, and nothing is installed twice."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deploy import environment
from tests.conftest import project_root


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "requirements").mkdir()
    for name in ("local", "dev"):
        (tmp_path / "requirements" / f"{name}.txt").write_text(f"{name}==1 \\\n    --hash=sha256:00\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    return tmp_path


def installed(checkout: Path, profile: str) -> None:
    lock = checkout / "requirements" / f"{profile}.txt"
    (checkout / ".venv").mkdir(exist_ok=True)
    (checkout / ".venv" / f"installed-{profile}.json").write_text(json.dumps(environment._fingerprint(lock)))


def fail_installation(*_: object) -> None:
    pytest.fail("packages were installed again")


@pytest.mark.parametrize("profile", ["local", "dev"])
def test_installed_packages_are_not_installed_again(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    installed(checkout, profile)
    monkeypatch.setattr(environment, "_install", fail_installation)
    environment.main(profile)


def test_the_development_environment_includes_the_local_one(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(checkout, "dev")
    monkeypatch.setattr(environment, "_install", fail_installation)
    environment.main("local")


@pytest.mark.parametrize("changed", ["requirements/local.txt", "pyproject.toml"])
def test_a_changed_lock_or_project_file_installs_again(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    installed(checkout, "local")
    (checkout / changed).write_text("other==2 \\\n    --hash=sha256:00\n")
    titles: list[str] = []
    monkeypatch.setattr(environment, "_works", lambda _: True)
    monkeypatch.setattr(environment, "_install", lambda _, __, title, ___: titles.append(title))
    environment.main("local")
    assert titles == ["Installing up to 1 packages", "Installing Piepowder itself"]
    titles.clear()
    environment.main("local")
    assert titles == []


def test_a_checkout_that_was_moved_is_set_up_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(checkout, "local")
    note = checkout / ".venv" / "installed-local.json"
    note.write_text(note.read_text().replace(str(checkout), "/elsewhere"))
    titles: list[str] = []
    monkeypatch.setattr(environment, "_works", lambda _: True)
    monkeypatch.setattr(environment, "_install", lambda _, __, title, ___: titles.append(title))
    environment.main("local")
    assert titles


def test_of_two_first_runs_at_the_same_time_the_second_waits_and_installs_nothing(checkout: Path) -> None:
    """Each run is a process of its own, as of two `make run` in one checkout."""
    program = """
import sys, time
from pathlib import Path
from deploy import environment
root = Path(sys.argv[1])
environment.ROOT, environment.VENV = root, root / ".venv"
def install(*_):
    (root / ".venv").mkdir(exist_ok=True)
    print("installs", flush=True)
    sys.stdin.readline()
environment._works = lambda _: True
environment._install = install
environment.main("local")
print("ends", flush=True)
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(checkout)],
            cwd=project_root(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        first_lines = {run: run.stdout.readline() for run in started if run.stdout is not None}
        [first] = [run for run, line in first_lines.items() if line == "installs\n"]
        [second] = [run for run, line in first_lines.items() if line.startswith("Another process installs")]
        rest, _ = first.communicate("\n\n", timeout=60)
        assert rest == "installs\nends\n"
        assert second.communicate(timeout=60)[0] == "ends\n"
    finally:
        for run in started:
            run.kill()
            run.wait()


def test_the_installation_says_what_it_does_also_without_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pip = tmp_path / "python"
    collected = "\n".join(f"echo Collecting p{n}==1" for n in range(30))
    pip.write_text(f"#!/bin/sh\n{collected}\necho Installing collected packages: a, b, c\n")
    pip.chmod(0o755)
    environment._install(pip, [], "Installing up to 30 packages", 30)
    out = capfd.readouterr().out.splitlines()
    assert out[:3] == [
        "Installing up to 30 packages",
        "  25 of 30: p24",
        "  writing 3 packages to .venv, which takes up to a minute",
    ]
    assert out[3].startswith("  done in ")


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("Failed to establish a new connection: NewConnectionError(...)", "network"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "differs from the lock"),
        ("something else", "pip's output"),
    ],
)
def test_an_error_of_pip_becomes_a_sentence(checkout: Path, output: str, sentence: str) -> None:
    assert sentence in environment._reason(output)


def test_a_failed_installation_ends_with_the_reason_and_is_repeated(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        environment._install(Path(sys.executable), ["--no-index", "no-such-package-at-all"], "Installing", 1)
    assert "could not be installed" in capsys.readouterr().err
    assert environment._installed("local") is None


def test_a_python_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(environment, "OLDEST", (99, 0))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SystemExit):
        environment.main("local")
    assert "Python 99.0 or newer is needed" in capsys.readouterr().err


def test_the_written_packages_are_counted_in_few_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "_LINE_SECONDS", 0.0)
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("before", "one", "two"):
        (packages / f"{name}-1.0.dist-info").mkdir(parents=True)
    ended = threading.Event()
    writing = threading.Thread(target=environment._show_written, args=(1, 30, ended))
    writing.start()
    deadline = time.monotonic() + 30
    while not (shown := capsys.readouterr().out):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ended.set()
    writing.join()
    assert shown.splitlines()[0] == "  2 of 30 packages written"
