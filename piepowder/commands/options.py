"""Options that several commands have, and the connection to a deployment that they describe."""

import asyncio
import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from pydantic import TypeAdapter, ValidationError

from piepowder.client import Api, ApiError
from piepowder.imports.file_options import FileOptions
from piepowder.profile import Profile, local_folder, resolve
from shared.runtime.settings import RegionIds
from shared.runtime.user_errors import UserError, file_errors

T = TypeVar("T")
NONE: Final[list[Any]] = []
_PLATFORM: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def new_app(name: str | None = None, help: str | None = None) -> typer.Typer:  # noqa: A002 - typer's own name
    """An app for the commands of one noun; with a name, they are its subcommands."""
    return typer.Typer(name=name, help=help, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME-OR-FILE",
        help="The deployment to use: a profile's file, or NAME of ~/.config/piepowder/NAME.yaml (PIEPOWDER_PROFILE)",
    ),
]
LocalFolder = Annotated[
    Path | None,
    typer.Option(help="The local stack's folder (PIEPOWDER_FOLDER); .piepowder by default", show_default=False),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="File of the API key to use instead of the profile's (PIEPOWDER_KEY_FILE)"
    ),
]


class ApiConnection:
    """A command's connection: its options, resolved to a profile when the command needs one."""

    def __init__(self, *, profile: ProfileOption = None, folder: LocalFolder = None, key_file: KeyFile = None) -> None:
        self._resolve = functools.partial(resolve, profile=profile, folder=folder, key_file=key_file)
        self.folder = local_folder(folder)

    @functools.cached_property
    def profile(self) -> Profile:
        return self._resolve()

    def run(self, work: Callable[[Api], Awaitable[T]]) -> T:
        """Run `work` with a client of the deployment."""

        async def working() -> T:
            async with Api(self.profile) as api:
                return await work(api)

        return asyncio.run(working())


@contextmanager
def named_faults(names: Mapping[str, str]) -> Iterator[None]:
    """Name the options of a command in place of the JSON pointers of an `ApiError`.

    `names` has the option for the first parts of a pointer, such as `{"/expected_date": "--date"}`; names that follow
    them are shown behind the option, but not the index of an option's value.
    """
    try:
        yield
    except ApiError as error:
        faults = [{**fault, "pointer": _named(fault.get("pointer") or "", names)} for fault in error.faults]
        raise ApiError(error.status, {**error.problem, "errors": faults}) from error


def _named(pointer: str, names: Mapping[str, str]) -> str:
    for start in sorted(names, key=len, reverse=True):
        if pointer == start or pointer.startswith(f"{start}/"):
            rest = pointer[len(start) + 1 :]
            return f"{names[start]} {rest}" if rest and not rest.isdecimal() else names[start]
    return pointer


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises `UserError` when it cannot be read."""
    with file_errors(path, "Name another file."):
        text = path.read_bytes()
    try:
        return msgspec.yaml.decode(text)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is not YAML ({error}).", "Correct it, and repeat the command.") from error


def region_ids(text: str) -> list[str]:
    """Distinct region ids of a comma-separated list."""
    try:
        return list(dict.fromkeys(TypeAdapter(RegionIds).validate_python(text)))
    except ValidationError as error:
        raise typer.BadParameter(str(error.errors()[0]["msg"]), param_hint="--regions") from error


@contextmanager
def _bad_parameter() -> Iterator[None]:
    """A ValueError as a message about the option."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from error


def _markets(codes: list[str]) -> list[str]:
    if not codes:
        return []
    from piepowder.imports.values import country  # noqa: PLC0415 - slow to load

    with _bad_parameter():
        return [country(code) for code in codes]


def _currency(text: str | None) -> str | None:
    if text is None:
        return None
    from piepowder.imports.currencies import codes  # noqa: PLC0415 - slow to load

    if text.upper() not in codes():
        raise typer.BadParameter(f"{text!r} is not a currency code (ISO 4217).")
    return text.upper()


def _mapping(pairs: list[str]) -> list[str]:
    if not pairs:
        return []
    from piepowder.imports.fields import FIELDS  # noqa: PLC0415 - slow to load

    for pair in pairs:
        field, sign, column = pair.partition("=")
        if not sign or not column or field not in FIELDS:
            raise typer.BadParameter(f"{pair!r}: expected FIELD=COLUMN, where FIELD is {', '.join(FIELDS)}.")
    fields = [pair.partition("=")[0] for pair in pairs]
    if twice := next((field for field in fields if fields.count(field) > 1), None):
        raise typer.BadParameter(f"{twice} has more than one column; give one.")
    return pairs


def _delimiter(text: str | None) -> str | None:
    character = {"tab": "\t", "\\t": "\t"}.get(text or "", text)
    if character is not None and len(character) != 1:
        raise typer.BadParameter("expected one character, or tab.")
    return character


def _decimal(text: str | None) -> str | None:
    sign = {"point": ".", "comma": ","}.get(text or "", text)
    if sign not in (None, ".", ","):
        raise typer.BadParameter(f"{text!r}: expected point or comma.")
    return sign


def _quoting(text: str | None) -> str | None:
    if text not in (None, "rfc4180", "none"):
        raise typer.BadParameter(f"{text!r}: expected rfc4180 or none.")
    return text


def _numbering(text: str | None) -> str | None:
    if text not in (None, "row"):
        raise typer.BadParameter(f"{text!r}: expected row; for a column, give --map id=COLUMN.")
    return text


def _encoding(text: str | None) -> str | None:
    if text is None:
        return None
    from piepowder.imports.encodings import codec_name  # noqa: PLC0415 - slow to load

    if codec_name(text) is None:
        raise typer.BadParameter(f"{text}: expected an encoding such as utf-8, windows-1252 or shift_jis.")
    return text


def _language(text: str | None) -> str | None:
    if text is None:
        return None
    from piepowder.imports.values import language  # noqa: PLC0415 - slow to load

    with _bad_parameter():
        return language(text)


def _format(text: str | None) -> str | None:
    if text not in (None, "csv"):
        raise typer.BadParameter(f"{text!r}: expected csv; all other formats are recognized.")
    return text


def _kind(text: str) -> str:
    if text not in ("product", "seller", "content"):
        raise typer.BadParameter(f"{text!r}: expected product, seller or content.")
    return text


def _platform(text: str | None) -> str | None:
    if text is not None and _PLATFORM.fullmatch(text) is None:
        raise typer.BadParameter("expected 1 to 63 of a-z, 0-9 and '-', the first a letter or digit.")
    return text


def existing_file(name: str | None) -> str | None:
    """Check that a file or pipe exists; `-` is standard input."""
    if name is not None and name != "-" and (not Path(name).exists() or Path(name).is_dir()):
        raise typer.BadParameter(f"there is no file {name}.")
    return name


def new_file(path: Path | None) -> Path | None:
    """Check that a file does not exist."""
    if path is not None and path.exists():
        raise typer.BadParameter(f"{path} exists already; name a new file.")
    return path


Kafka = Annotated[str | None, typer.Option(help="Bootstrap servers; those of the profile by default (PIEPOWDER_KAFKA)")]
StackFolder = Annotated[
    Path, typer.Option("--folder", envvar="PIEPOWDER_FOLDER", help="The folder of the system's data", show_default=True)
]
Nodes = Annotated[int, typer.Option(min=1, max=3, help="Kafka nodes: 1 or 3")]
Regions = Annotated[str, typer.Option(help="Operating regions, comma-separated")]
Markets = Annotated[list[str], typer.Option("--market", callback=_markets, help="A market; may be repeated")]


def _file_options(
    *,
    mapping: Annotated[
        list[str], typer.Option("--map", callback=_mapping, metavar="FIELD=COLUMN", help="The column of a field")
    ] = NONE,
    platform: Annotated[
        str | None, typer.Option(callback=_platform, help="The items' platform; by default the file's name")
    ] = None,
    kind: Annotated[str, typer.Option(callback=_kind, help="product, seller or content")] = "product",
    market: Annotated[
        list[str], typer.Option(callback=_markets, help="A market of the items; may be repeated; by default US")
    ] = NONE,
    currency: Annotated[
        str | None,
        typer.Option(callback=_currency, help="The currency of prices that name none; by default that of the markets"),
    ] = None,
    decimal: Annotated[
        str | None,
        typer.Option(
            callback=_decimal,
            help="Decimal separator of prices: . or , (by default that of all prices)",
        ),
    ] = None,
    language: Annotated[str | None, typer.Option(callback=_language, help="The items' language (BCP 47)")] = None,
    delimiter: Annotated[
        str | None, typer.Option(callback=_delimiter, help="Delimiter of the cells; detected by default")
    ] = None,
    quoting: Annotated[
        str | None,
        typer.Option(
            callback=_quoting, help="rfc4180 or none (quotation marks are ordinary characters); detected by default"
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            callback=_encoding,
            help="Encoding of the text, such as windows-1250; by default UTF-8, or a guess to confirm",
        ),
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="The sheet of a workbook; by default the only one")] = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", callback=_numbering, help="row: the id is the position of the listing in the file"),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", callback=_format, help="csv: for a CSV that starts like JSON or XML"),
    ] = None,
    lenient: Annotated[
        bool, typer.Option(help="Accept a listing without its faulty optional fields, instead of refusing it")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Use a guessed encoding without a question")] = False,
) -> FileOptions:
    fields = dict(pair.split("=", 1) for pair in mapping)
    if id_ is not None and "id" in fields:
        raise typer.BadParameter("give --id row or --map id=COLUMN, not both.", param_hint="--id")
    return FileOptions(
        platform=platform,
        kind=kind,
        markets=market,
        currency=currency,
        decimal=decimal,
        language=language,
        is_csv=format_ is not None,
        mapping=fields,
        delimiter=delimiter,
        quoting=quoting,
        encoding=encoding,
        sheet=sheet,
        number_rows=id_ is not None,
        lenient=lenient,
        accept_guess=yes,
    )


_GROUPS: Final[dict[object, Callable[..., object]]] = {
    ApiConnection: ApiConnection,
    FileOptions: _file_options,
}


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Replace a parameter of type `ApiConnection` or `FileOptions` with the options that build its value."""
    parameters = inspect.signature(function).parameters.values()
    builders = {one.name: _GROUPS[one.annotation] for one in parameters if one.annotation in _GROUPS}
    options = [one for builder in builders.values() for one in inspect.signature(builder).parameters.values()]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, builder in builders.items():
            values[name] = builder(**{option: values.pop(option) for option in inspect.signature(builder).parameters})
        function(**values)

    own = [one for one in parameters if one.name not in builders]
    command.__signature__ = inspect.Signature(sorted([*own, *options], key=lambda one: one.kind))  # type: ignore[attr-defined]  # read by typer
    command.__annotations__ = {one.name: one.annotation for one in (*own, *options)}
    return command
