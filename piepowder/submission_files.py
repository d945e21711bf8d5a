"""The files of a submission: the submitted file, the journal of accepted lines, and the report of refused lines."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from piepowder import console_output
from piepowder.client import Api
from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import ListingImport, open_import
from piepowder.imports.rows import Refusal
from piepowder.progress import ProgressReport, counting
from piepowder.submission_preview import check_confirmation
from piepowder.submit import ItemSubmitter
from piepowder.tally import JournalEntry, RefusalTally, Tally
from shared.runtime.private_files import make_private_folder, open_private
from shared.runtime.user_errors import UserError, file_errors

_FOLDER: Final = "submitted"
_REPORT_SUFFIX: Final = "-refused.ndjson"
_PROGRESS_LINES: Final = 2_000


class SubmissionFiles(NamedTuple):
    """The files that record a submission: accepted lines, and refused lines with the reasons."""

    journal: Path
    report: Path


def open_listings(name: str, options: FileOptions) -> ListingImport:
    """Open and read a file of listings, with a progress bar on a terminal; raises `UserError`."""
    with _of_bytes("Reading") as count:
        return open_import(name, options, lambda position, size: count(position // 1000, _kilobytes(size)))


async def submit_listings(
    api: Api,
    listings: ListingImport,
    folder: Path,
    *,
    journal: Path | None = None,
    report: Path | None = None,
    tally: Tally | None = None,
) -> tuple[Tally, SubmissionFiles]:
    """Submit an opened file, with its progress; raises `UserError` if its encoding is an unconfirmed guess.

    An interrupted call shows the last line that was sent; the same file may be submitted again, because ids repeat.
    `tally` receives the verdicts while the file is submitted.
    """
    check_confirmation(listings)
    with file_errors(folder), ExitStack() as files:
        paths = new_files(folder, listings.name, journal, report)
        for path in paths:
            make_private_folder(path.parent)
        accepted, refused = (files.enter_context(open_private(path, "wb")) for path in paths)
        count = files.enter_context(_of_bytes("Submitting"))

        def show(tally: Tally) -> None:
            count(listings.source.position // 1000, _kilobytes(listings.source.size), _counts(tally))

        submitter = ItemSubmitter(
            api,
            journal=accepted,
            report=refused,
            progress=show,
            lenient=listings.is_lenient,
            tally=Tally() if tally is None else tally,
        )
        try:
            return await submitter.submit(listings.read()), paths
        except asyncio.CancelledError:
            tally = submitter.tally
            console_output.show(
                f"Interrupted. {tally.sent_lines(listings.unit)} ({_counts(tally)}). Submit the file again to continue;"
                " those that were sent stay accepted or refused."
            )
            raise


def read_listings(listings: ListingImport) -> tuple[int, RefusalTally]:
    """The number of listings that can be sent, and the refusals of the import; nothing is sent or written."""
    tally, sendable = RefusalTally(), 0
    with _of_bytes("Reading") as count:
        for read, line in enumerate(listings.read(), 1):
            if isinstance(line, Refusal):
                tally.refuse(line)
            else:
                sendable += 1
                tally.omit(line.number, line.omitted)
            if read % _PROGRESS_LINES == 0:
                counts = f"{sendable:,} can be sent, {tally.refused:,} refused"
                count(listings.source.position // 1000, _kilobytes(listings.source.size), counts)
    return sendable, tally


def new_files(folder: Path, name: str, journal: Path | None, report: Path | None) -> SubmissionFiles:
    """The files that record the submission of `name`: the given files, else new numbered files."""
    if journal is None:
        stem = Path(name).name.split(".")[0].strip("-").replace(" ", "-") or "listings"
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


def _create(path: Path) -> bool:
    """Create a file; False if it exists."""
    try:
        path.touch(0o600, exist_ok=False)
    except FileExistsError:
        return False
    return True


def _of_bytes(title: str) -> AbstractContextManager[ProgressReport]:
    return counting(title, "kB")


def _kilobytes(size: int | None) -> int | None:
    return None if not size else max(1, size // 1000)


def _counts(tally: Tally) -> str:
    return f"{tally.accepted:,} accepted, {tally.refused:,} refused"
