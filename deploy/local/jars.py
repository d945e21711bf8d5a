"""Kafka's jars. Each is downloaded from the Maven repository by its coordinates, and used only if its SHA-256 is the
committed one, which every start checks (43 MB, under 0.1 s). They are stored in the user's cache, so that a second
clone starts fast; a jar is added whole or not at all, and a broken one is downloaded again. `python -m
deploy.local.jars --write` writes the list. It resolves Kafka and the logging binding separately: together, log4j's bill
of materials would force an older kafka-clients on the broker."""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path, PurePosixPath

from deploy.local.files import FolderLock, write_whole
from piepowder.progress import counting
from shared.runtime.user_errors import UserError, cause, file_errors

LIST = Path(__file__).with_name("jars.sha256")
ROOTS = ("org.apache.kafka:kafka_2.13:4.3.1", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4")
Report = Callable[[str], None]
Fetch = Callable[[PurePosixPath, Path], Path]


def user_cache() -> Path:
    """`PIEPOWDER_CACHE`, else the folder `piepowder` in the user's cache folder of this platform."""
    if named := os.environ.get("PIEPOWDER_CACHE"):
        return Path(named).absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "piepowder"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "piepowder"


def read_list(path: Path = LIST) -> dict[PurePosixPath, str]:
    """Path in a Maven repository (`group/artifact/version/file.jar`) to SHA-256; lines in the format of `sha256sum`."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip())
    return {PurePosixPath(name): digest for digest, name in lines}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_jars(
    *,
    report: Report = print,
    cache: Path | None = None,
    wanted: dict[PurePosixPath, str] | None = None,
    fetch: Fetch | None = None,
    cancelled: threading.Event | None = None,
) -> list[Path]:
    """The checked jars of the committed list; missing or broken ones are downloaded.

    Raises `UserError` without network, on a full disk, or when a download does not match the list.
    """
    folder = (cache or user_cache()) / "kafka"
    wanted = read_list() if wanted is None else wanted
    with file_errors(folder, "Set PIEPOWDER_CACHE to another folder."):
        if _missing(folder, wanted):
            folder.mkdir(parents=True, exist_ok=True)
            with FolderLock(folder / "lock").waiting(timeout=600):
                if missing := _missing(folder, wanted):
                    report(f"Kafka: downloading {len(missing)} of {len(wanted)} jars to {folder}")
                    _fetch_missing(folder, missing, fetch or fetch_with_jgo, cancelled or threading.Event())
    return [folder / path.name for path in wanted]


def _missing(folder: Path, wanted: dict[PurePosixPath, str]) -> dict[PurePosixPath, str]:
    def broken(path: PurePosixPath) -> bool:
        jar = folder / path.name
        return not jar.is_file() or sha256(jar) != wanted[path]

    return {path: digest for path, digest in wanted.items() if broken(path)}


def _fetch_missing(folder: Path, missing: dict[PurePosixPath, str], fetch: Fetch, cancelled: threading.Event) -> None:
    for left_over in folder.glob("download-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder, ignore_cleanup_errors=True) as temporary:
        fetch_one = partial(_fetch_one, to=folder, through=Path(temporary), fetch=fetch, cancelled=cancelled)
        pool = ThreadPoolExecutor(max_workers=4)
        try:
            jobs = [pool.submit(fetch_one, path, digest) for path, digest in missing.items()]
            with counting("Kafka", "jars downloaded", total=len(jobs)) as count:
                for number, job in enumerate(as_completed(jobs), start=1):
                    job.result()
                    count(number)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _fetch_one(
    path: PurePosixPath, digest: str, *, to: Path, through: Path, fetch: Fetch, cancelled: threading.Event
) -> None:
    reason = ""
    for attempt in range(3):
        if cancelled.is_set():
            raise UserError("The download was interrupted.", "Start again: it continues from there.")
        try:
            jar = fetch(path, through / f"{path.name}-{attempt}")
        except UserError as error:
            reason = error.what
            continue
        if sha256(jar) == digest:
            jar.replace(to / path.name)
            return
        reason = f"The download of {path.name} does not have the listed SHA-256."
    raise UserError(reason, "Check the network (perhaps a proxy) and start again: finished downloads are kept.")


def fetch_with_jgo(path: PurePosixPath, repository: Path) -> Path:
    """Download one jar of the Maven repository into `repository`. Raises `UserError` when that fails."""
    try:
        import requests  # noqa: PLC0415 - from an extra
        from jgo.maven import MavenContext  # noqa: PLC0415 - from an extra
    except ImportError as error:
        raise UserError("The package jgo is not installed here.", "Install the extra `local`.") from error

    *group, artifact, version, _ = path.parts
    project = MavenContext(repo_cache=repository, timeout=20).project(".".join(group), artifact)
    try:
        return Path(project.at_version(version).artifact().resolve())
    except requests.RequestException as error:
        raise UserError(f"{path.name} could not be downloaded ({cause(error)}).", "Check the network.") from error
    except RuntimeError as error:
        raise UserError(f"{path.name} is incomplete or does not exist.", "Try again later.") from error


def resolve() -> list[PurePosixPath]:
    """The jars that Kafka and a logging binding need, by their paths in a Maven repository."""
    from jgo.maven import MavenContext  # noqa: PLC0415 - from an extra

    paths: set[PurePosixPath] = set()
    with tempfile.TemporaryDirectory() as repository:
        context = MavenContext(repo_cache=Path(repository))
        for root in ROOTS:
            inputs, others = context.resolver.resolve([context.create_dependency(root)])
            for dependency in (*inputs, *others):
                artifact = dependency.artifact
                group = str(artifact.groupId).replace(".", "/")
                paths.add(PurePosixPath(group, artifact.artifactId, artifact.version, artifact.filename))
    return sorted(paths, key=str)


def write_list() -> None:
    lines = []
    with tempfile.TemporaryDirectory() as repository:
        for path in resolve():
            lines.append(f"{sha256(fetch_with_jgo(path, Path(repository)))}  {path}\n")
            print(lines[-1], end="")
    write_whole(LIST, "".join(lines), mode=0o644)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.jars", description="Download and check Kafka's jars.")
    parser.add_argument("--write", action="store_true", help="resolve again and write the list of names and SHA-256")
    try:
        if parser.parse_args().write:
            write_list()
        print(f"{len(fetch_jars())} jars in {user_cache() / 'kafka'}")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
