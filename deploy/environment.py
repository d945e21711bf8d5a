"""Installs the packages of a lock file into `.venv`: `python3 deploy/environment.py local|dev`.

It runs first on a new machine, so it needs only Python's standard library, reports its steps, explains a missing
requirement in one sentence, and continues after an interruption. If the lock has not changed, it takes a few
milliseconds.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST = (3, 11)
_SHOWN_EACH = 25  # packages, without a terminal
_LINE_SECONDS = 15.0  # between two lines while packages are written, without a terminal


def main(profile: str) -> None:
    if sys.version_info < OLDEST:
        _use_newer_python(profile)
    if _is_complete(profile):
        return
    with (ROOT / "pyproject.toml").open() as file:  # the lock of the environment: it needs no file of its own
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another process installs the packages of this checkout; waiting until it has finished", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        if not _is_complete(profile):
            _set_up(profile)


def _is_complete(profile: str) -> bool:
    """True if the packages are installed; the development environment contains the local one."""
    return any(_installed(name) == _fingerprint(ROOT / "requirements" / f"{name}.txt") for name in (profile, "dev"))


def _set_up(profile: str) -> None:
    lock = ROOT / "requirements" / f"{profile}.txt"
    wanted = _fingerprint(lock)
    python = VENV / "bin" / "python"
    if not _works(python):
        print("Creating a Python environment in .venv", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        _make_environment(python)
    count = sum(1 for line in lock.read_text().splitlines() if line and not line.startswith((" ", "#")))
    _install(python, ["--require-hashes", "-r", str(lock)], f"Installing up to {count} packages", count)
    _install(python, ["--no-deps", "--no-build-isolation", "-e", str(ROOT)], "Installing Piepowder itself", 0)
    (VENV / f"installed-{profile}.json").write_text(json.dumps(wanted))


def _fingerprint(lock: Path) -> "dict[str, str]":
    content = lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return {"lock": hashlib.sha256(content).hexdigest(), "place": str(ROOT)}


def _installed(profile: str) -> object:
    try:
        return json.loads((VENV / f"installed-{profile}.json").read_text())
    except (OSError, ValueError):
        return None


def _works(python: Path) -> bool:
    try:
        where = subprocess.run(
            [str(python), "-c", "import pip, sys; print(sys.prefix)"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return Path(where.stdout.strip()) == VENV


def _make_environment(python: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if made.returncode or not _works(python):
        said = (made.stdout + made.stderr).strip()
        if "No space left" in said:
            _stop(f"The disk that holds {ROOT} is full: free about 1 GB and run this again.")
        if "Permission denied" in said or "Read-only" in said:
            _stop(f"{ROOT} cannot be written to: use a checkout of your own.")
        _stop(f"{sys.executable} cannot create an environment: install your system's python3-venv package.\n{said}")


def _install(python: Path, arguments: "list[str]", title: str, count: int) -> None:
    print(title, flush=True)
    started, seen, said = time.monotonic(), 0, ""
    command = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments]
    environment = {**os.environ, "PIP_PROGRESS_BAR": "off"}
    ended = threading.Event()
    writing = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as pip:
        assert pip.stdout is not None  # noqa: S101 - it is a pipe
        for line in pip.stdout:
            said = (said + line)[-4000:]
            if line.startswith("Collecting ") and count:
                seen += 1
                name = line.split()[1].partition("==")[0]
                _progress(f"  {seen} of {count}: {name}")
                if seen % _SHOWN_EACH == 0:
                    _log(f"  {seen} of {count}: {name}")
            elif line.startswith("Installing collected packages") and count:
                number = line.count(",") + 1
                _log(f"  writing {number} packages to .venv, which takes up to a minute")
                writing = threading.Thread(target=_show_written, args=(_written(), number, ended), daemon=True)
                writing.start()
    ended.set()
    if writing is not None:
        writing.join()
    if pip.returncode:
        _progress("")
        _stop(f"{_reason(said)}\n{said[-1500:]}")
    _progress(f"  done in {time.monotonic() - started:.0f} s\n")


def _written() -> int:
    """The number of packages in the environment."""
    return sum(1 for _ in VENV.glob("lib/python*/site-packages/*.dist-info"))


def _show_written(before: int, count: int, ended: threading.Event) -> None:
    """Show how many of `count` packages are written, until `ended`."""
    last = time.monotonic()
    while not ended.wait(0.5):
        text = f"  {min(count, max(0, _written() - before))} of {count} packages written"
        _progress(text)
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            _log(text)


def _reason(said: str) -> str:
    if "No space left" in said:
        return f"The disk that holds {ROOT} is full: free about 1 GB and run this again."
    if "NewConnectionError" in said or "Temporary failure in name resolution" in said or "Max retries" in said:
        return "The package registry cannot be reached: check the network or pip's settings, and run this again."
    if "DO NOT MATCH THE HASHES" in said:
        return "A package differs from the lock: empty pip's cache (`pip cache purge`), and run this again."
    return "The packages could not be installed; pip's output:"


def _log(text: str) -> None:
    """Write a line where no terminal shows the progress."""
    if not sys.stdout.isatty():
        print(text, flush=True)


def _progress(text: str) -> None:
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)
    elif text.endswith("\n"):
        print(text, end="", flush=True)


def _use_newer_python(profile: str) -> None:
    for minor in range(14, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            os.execv(found, [found, __file__, profile])  # noqa: S606 - the path of a Python
    _stop(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; {sys.executable} is {sys.version.split()[0]}.")


def _stop(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        _stop("Interrupted; run it again to continue.")
    except OSError as error:
        _stop(f"{error.strerror}: {error.filename}")
