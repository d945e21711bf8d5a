"""The profile of a deployment: the addresses of its services, the API key, and Kafka's bootstrap servers.

A command reads each value from the first of these sources that has it:

1. options: `--profile NAME-OR-FILE`, or `--folder` for a local stack; `--key-file`; `--kafka`;
2. variables: `PIEPOWDER_<SERVICE>_URL` (`PIEPOWDER_INTAKE_URL`), `PIEPOWDER_<SERVICE>_URL_<REGION>` for a service that
   runs once per region (`PIEPOWDER_DECISION_URL_EU`), `PIEPOWDER_KEY`, `PIEPOWDER_KEY_FILE`, `PIEPOWDER_KAFKA`;
3. the file that `PIEPOWDER_PROFILE` names;
4. the profile that a running local stack keeps in its folder (`PIEPOWDER_FOLDER`, else `.piepowder`).

Two deployments are never mixed by accident: variables add only a key to a profile that an option names, and the local
stack's profile is not used when a variable gives an address.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from piepowder.hints import command
from shared.runtime.process_identity import start_time
from shared.runtime.user_errors import UserError, file_errors

DEFAULT_FOLDER: Final = Path(".piepowder")
FILE_NAME: Final = "profile.json"
_URL_VARIABLE: Final = re.compile(r"PIEPOWDER_(?!DATABASE_)([A-Z0-9]+)_URL(?:_([A-Z0-9_]+))?")
_SUFFIXES: Final = (".yaml", ".yml", ".json")


class Process(msgspec.Struct, frozen=True):
    """A process of the local stack."""

    name: str
    address: str
    pid: int | None
    log: str


class StackProcesses(msgspec.Struct, frozen=True):
    """The processes of the local stack that wrote a profile; `pid` and `started` identify the process that runs it."""

    pid: int
    started: str | None
    processes: list[Process]


class ProfileFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A profile in a YAML or JSON file. A service has one URL, or one for each region; `key_file` is relative to it."""

    services: dict[str, str | dict[str, str]] = {}
    kafka: str = ""
    key: str = ""
    key_file: str = ""
    stack: StackProcesses | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The addresses and the key of a deployment. `services` maps (service, region) to a base URL; the region is empty
    for a service of all regions. `file` is the source file, if any; `absent` is the reason why there is no profile."""

    services: Mapping[tuple[str, str], str] = field(default_factory=dict)
    kafka: str = ""
    key: str = field(default="", repr=False)
    key_file: Path | None = None
    stack: StackProcesses | None = None
    file: Path | None = None
    absent: UserError | None = None

    @property
    def regions(self) -> list[str]:
        return list(dict.fromkeys(region for _, region in self.services if region))

    def url(self, name: str) -> str:
        """The base URL of a service, such as `intake` or `decision-eu`; raises `UserError` for an unknown service."""
        service, _, region = name.partition("-")
        found = self.services.get((service, region)) or next(
            (process.address for process in self.processes if process.name == name), None
        )
        if found is None:
            place = f"services.{service}.{region}" if region else f"services.{service}"
            raise self._missing(f"the address of {name}", f"{place} to the profile", url_variable(service, region))
        return found

    @property
    def processes(self) -> list[Process]:
        """The local stack's processes; empty for another deployment."""
        return [] if self.stack is None else self.stack.processes

    def chosen(self, region: str | None) -> list[str]:
        """The named region, or all regions; raises `UserError` for an unknown region."""
        if not self.regions:
            raise self._missing("any region", "the regions' services to the profile", url_variable("decision", "eu"))
        if region is not None and region not in self.regions:
            raise UserError(f"There is no region {region!r} here.", f"The regions are {', '.join(self.regions)}.")
        return self.regions if region is None else [region]

    def api_key(self) -> str:
        """The API key; raises `UserError` when there is none."""
        if self.key:
            return self.key
        if self.key_file is None:
            raise self._missing("an API key", "`key_file` to the profile", "PIEPOWDER_KEY or PIEPOWDER_KEY_FILE")
        with file_errors(self.key_file, "Name another file with --key-file."):
            return self.key_file.read_text(encoding="utf-8").strip()

    def bootstrap(self) -> str:
        """Kafka's bootstrap servers; raises `UserError` when they are not known."""
        if not self.kafka:
            raise self._missing("Kafka's bootstrap servers", "`kafka` to the profile", "PIEPOWDER_KAFKA")
        return self.kafka

    def _missing(self, what: str, addition: str, variable: str) -> UserError:
        if self.absent is not None:
            return self.absent
        where = f"The profile {self.file} does" if self.file else "The PIEPOWDER_ variables do"
        return UserError(f"{where} not give {what}.", f"Add {addition}, or set {variable}.")


def resolve(
    *,
    profile: str | None = None,
    folder: Path | None = None,
    key_file: Path | None = None,
    kafka: str | None = None,
    variables: Mapping[str, str] = os.environ,
) -> Profile:
    """The profile that these options and variables give. Raises `UserError` when a named file cannot be used; a missing
    value is an error only when it is needed."""
    given = _of_variables(variables)
    if profile is not None:
        found = read_profile(_file_of(profile, variables))
    elif folder is not None:
        found = read_local(folder)
    elif name := variables.get("PIEPOWDER_PROFILE"):
        found = _merge(given, read_profile(_file_of(name, variables)))
    elif given.services:
        found = given
    else:
        found = _merge(given, read_local(local_folder(None, variables)))
    if not found.key and found.key_file is None:
        found = replace(found, key=given.key, key_file=given.key_file)
    if key_file is not None:
        found = replace(found, key="", key_file=key_file)
    return found if kafka is None else replace(found, kafka=kafka)


def local_folder(folder: Path | None, variables: Mapping[str, str] = os.environ) -> Path:
    """The local stack's folder: the given folder, else PIEPOWDER_FOLDER, else `.piepowder`."""
    return folder or Path(variables.get("PIEPOWDER_FOLDER") or DEFAULT_FOLDER)


def read_local(folder: Path) -> Profile:
    """The profile of the local stack with its data in `folder`; an absent profile if no such stack runs."""
    file = folder.absolute() / FILE_NAME
    if file.is_file():
        return read_profile(file)
    return Profile(absent=UserError(f"No local stack runs with its data in {folder}.", _how_to_start()))


def read_profile(file: Path) -> Profile:
    """The profile in a file; absent if its local stack is not running. Raises `UserError` for an unusable file."""
    if not file.is_file():
        raise UserError(
            f"The profile {file} does not exist.",
            "Name another file with --profile or PIEPOWDER_PROFILE. A local stack has a profile while it runs.",
        )
    advice = "See docs/architecture/command.md for its fields."
    try:
        with file_errors(file, advice):
            content = msgspec.yaml.decode(file.read_bytes(), type=ProfileFile)
    except msgspec.DecodeError as error:
        raise UserError(f"{file} is not a profile ({error}).", advice) from error
    stack = content.stack
    if stack is not None and start_time(stack.pid) != stack.started:
        what = f"The local stack in {file.parent} is not running: it was ended without a normal stop."
        return Profile(absent=UserError(what, _how_to_start()))
    services = {
        (service, region): url
        for service, urls in content.services.items()
        for region, url in (urls.items() if isinstance(urls, dict) else [("", urls)])
    }
    for url in services.values():
        _check_url(url, str(file))
    return Profile(
        services={place: url.rstrip("/") for place, url in services.items()},
        kafka=content.kafka,
        key=content.key,
        key_file=file.parent / Path(content.key_file).expanduser() if content.key_file else None,
        stack=stack,
        file=file,
    )


def exports(profile: Profile) -> Iterator[str]:
    """Lines of a POSIX shell that export a profile: each URL, the key (as KEY too, for curl), and the file."""
    values = {url_variable(*place): url for place, url in profile.services.items()}
    if profile.file is not None:
        values["PIEPOWDER_PROFILE"] = str(profile.file.absolute())
    if profile.key or profile.key_file is not None:
        values["PIEPOWDER_KEY"] = values["KEY"] = profile.api_key()
    for name, value in values.items():
        yield f"export {name}={shlex.quote(value)}"


def url_variable(service: str, region: str) -> str:
    """The name of the variable with a service's URL."""
    suffix = f"_{region}" if region else ""
    return f"PIEPOWDER_{service}_URL{suffix}".upper().replace("-", "_")


def _of_variables(variables: Mapping[str, str]) -> Profile:
    services = {}
    for name, value in variables.items():
        if (match := _URL_VARIABLE.fullmatch(name)) and value:
            _check_url(value, name)
            services[match[1].lower(), (match[2] or "").lower().replace("_", "-")] = value.rstrip("/")
    key, key_file = variables.get("PIEPOWDER_KEY", ""), variables.get("PIEPOWDER_KEY_FILE")
    return Profile(
        services=services,
        kafka=variables.get("PIEPOWDER_KAFKA", ""),
        key=key,
        key_file=Path(key_file) if key_file and not key else None,
    )


def _merge(first: Profile, second: Profile) -> Profile:
    """`second`, except for the values that `first` has."""
    with_key = first if first.key or first.key_file is not None else second
    return replace(
        second,
        services={**second.services, **first.services},
        kafka=first.kafka or second.kafka,
        key=with_key.key,
        key_file=with_key.key_file,
    )


def _file_of(name: str, variables: Mapping[str, str]) -> Path:
    """The file of a profile: a path, or the name of a file in the user's configuration folder."""
    if "/" in name or name.endswith(_SUFFIXES):
        return Path(name).expanduser()
    home = variables.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    files = [Path(home, "piepowder", f"{name}{suffix}") for suffix in _SUFFIXES]
    return next((file for file in files if file.is_file()), files[0])


def _check_url(url: str, source: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{source} has {url!r}, which is not a URL.", "Give a URL such as https://intake.example.com.")


def _how_to_start() -> str:
    return (
        f"Start one with `{command('up')}` or `make run`, or name its folder with --folder. For another deployment,"
        " name a profile with --profile or PIEPOWDER_PROFILE, or set PIEPOWDER_INTAKE_URL and the other variables"
        " (docs/architecture/command.md)."
    )
