"""The files of a submission: the submitted file, the journal of accepted lines, and the report of refused lines."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from piepowder import console_output, listings
from piepowder.client import Api
from piepowder.submit import ItemSubmitter, JournalEntry, Tally
from shared.runtime.private_files import make_private_folder, open_private
from shared.runtime.user_errors import UserError, file_errors

_FOLDER: Final = "submitted"
_REPORT_SUFFIX: Final = "-refused.ndjson"
_REFUSALS_SHOWN: Final = 12


class SubmissionFiles(NamedTuple):
    """The files that record a submission: accepted lines, and refused lines with the reasons."""

    journal: Path
    report: Path


async def submit_file(
    api: Api,
    name: str,
    options: listings.FileOptions,
    folder: Path,
    *,
    journal: Path | None = None,
    report: Path | None = None,
    tally: Tally | None = None,
) -> tuple[Tally, SubmissionFiles]:
    """Submit a file, with a progress bar on a terminal. An interrupted call shows the last line that was sent; the same
    file may be submitted again, because ids repeat. `tally` receives the verdicts while the file is submitted."""
    source = listings.ItemFile(name)
    with file_errors(folder), ExitStack() as files:
        files.callback(source.close)
        lines = listings.read(source, options)
        paths = new_files(folder, name, journal, report)
        for path in paths:
            make_private_folder(path.parent)
        accepted, refused = (files.enter_context(open_private(path, "wb")) for path in paths)
        progress = files.enter_context(_bar(source))
        submitter = ItemSubmitter(
            api, journal=accepted, report=refused, progress=progress, tally=Tally() if tally is None else tally
        )
        try:
            return await submitter.submit(lines), paths
        except asyncio.CancelledError:
            tally = submitter.tally
            console_output.show(
                f"Interrupted: lines up to {tally.last_line:,} were sent ({_counts(tally)}). Submit the file again to"
                " continue; the lines that were sent stay accepted or refused."
            )
            raise


def new_files(folder: Path, name: str, journal: Path | None, report: Path | None) -> SubmissionFiles:
    """The files that record the submission of `name`: the given files, else new numbered files."""
    if journal is None:
        stem = Path(name).name.split(".")[0].strip("-") or "listings"
        make_private_folder(folder / _FOLDER)
        numbered = (folder / _FOLDER / f"{stem}-{number}.ndjson" for number in itertools.count(1))
        journal = next(path for path in numbered if _create(path))
    return SubmissionFiles(journal, report or journal.with_name(f"{journal.stem}{_REPORT_SUFFIX}"))


def journals(folder: Path) -> list[Path]:
    """The journals in a folder; journals that were written elsewhere are not included."""
    paths = sorted((folder / _FOLDER).glob("*.ndjson"))
    return [path for path in paths if not path.name.endswith(_REPORT_SUFFIX)]


def read_journal(journal: Path) -> Iterator[JournalEntry]:
    """The entries of a journal; raises `UserError` for another file."""
    with file_errors(journal), journal.open("rb") as lines:
        for line in lines:
            try:
                yield msgspec.json.decode(line, type=JournalEntry)
            except msgspec.DecodeError as error:
                raise UserError(f"{journal} is not a journal ({error}).", "Name a journal with --journal.") from error


def show_refusals(tally: Tally, report: Path, limit: int = _REFUSALS_SHOWN) -> None:
    """Show the first refusals with line and reason, and the path of the report with all of them."""
    for refusal in tally.refusals[:limit]:
        status = f" ({refusal.status})" if refusal.status else ""
        console_output.show(f"  line {refusal.number:,}{status}: {console_output.clean(refusal.detail, 300)}")
    if tally.refused > limit:
        console_output.show(f"  … {tally.refused - limit:,} more")
    if tally.refused:
        console_output.show(f"  All refused lines: {report}")


def _create(path: Path) -> bool:
    """Create a file; False if it exists."""
    try:
        path.touch(0o600, exist_ok=False)
    except FileExistsError:
        return False
    return True


@contextmanager
def _bar(source: listings.ItemFile) -> Iterator[Callable[[Tally], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn())
    with Progress(*columns, console=console_output.console, disable=not console_output.console.is_terminal) as progress:
        task = progress.add_task("Submitting", total=source.size, counts="")
        yield lambda tally: progress.update(task, completed=source.position, counts=_counts(tally))


def _counts(tally: Tally) -> str:
    return f"{tally.accepted:,} accepted, {tally.refused:,} refused"
