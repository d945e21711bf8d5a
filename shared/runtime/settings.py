"""Typed settings from environment variables, with defaults that work locally.

An invalid value ends the process with a sentence: the variable, its value without a password, and the reason.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from shared.runtime.passwords import without_password
from shared.runtime.user_errors import sentence
from shared.validation.regions import check_region


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


_LOOPBACK: Final = (("http", "127.0.0.1"), ("http", "::1"), ("http", "localhost"))

RegionId: TypeAlias = Annotated[str, AfterValidator(check_region)]
RegionIds: TypeAlias = Annotated[list[RegionId], NoDecode, BeforeValidator(_split), Field(min_length=1)]


def is_private(url: str) -> bool:
    """True if the traffic to a URL is private: HTTPS, or HTTP on this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme, parts.hostname) in _LOOPBACK)


class CommonSettings(BaseSettings):
    """Settings of every service; each service's `settings.py` adds its own. Variables start with `PIEPOWDER_`."""

    model_config = SettingsConfigDict(env_prefix="PIEPOWDER_", extra="ignore", frozen=True)

    kafka: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers, host:port[,host:port...]")
    kafka_by_region: dict[str, str] = Field(
        default={}, description='Bootstrap servers of regions that have their own cluster, as JSON: {"eu": "host:port"}'
    )
    clients_file: Path | None = Field(None, description="JSON file with the first API keys: hashes, scopes, regions")
    oidc_issuer: str = Field("", description="Issuer of people's access tokens, https://...; empty disables tokens")
    oidc_audience: str = Field("", description="Required audience (`aud`) of access tokens", validate_default=True)
    oidc_regions_claim: str = Field("piepowder_regions", min_length=1, description="Claim with the regions of a person")
    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 for any free port")
    instance: str = Field(
        default_factory=socket.gethostname,
        description="Unique name of this replica (static group membership), such as the pod's name",
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    drain_seconds: float = Field(10.0, gt=0, description="Time to finish current work when the service stops")
    batch_records: int = Field(2000, ge=1, le=50_000, description="Maximum records of a batch from Kafka")
    parked_keys: int = Field(10_000, ge=1, description="Maximum parked keys; the service stops above it")

    @field_validator("oidc_issuer")
    @classmethod
    def _is_https(cls, issuer: str) -> str:
        if issuer and not is_private(issuer):
            raise ValueError("expected https://..., or http:// on this machine")
        return issuer

    @field_validator("oidc_audience")
    @classmethod
    def _is_set_with_an_issuer(cls, audience: str, info: ValidationInfo) -> str:
        if info.data.get("oidc_issuer") and not audience:
            raise ValueError("required with PIEPOWDER_OIDC_ISSUER: tokens for another audience must not be accepted")
        return audience

    def bootstrap(self, region: str) -> str:
        """The Kafka cluster of a region."""
        return self.kafka_by_region.get(region, self.kafka)


S = TypeVar("S", bound=CommonSettings)


def load(kind: type[S]) -> S:
    """Read the settings; exits with status 2, and one line for each invalid value."""
    try:
        return kind()
    except SettingsError as error:  # invalid JSON; only the message has the field's name
        name = str(error).partition('field "')[2].partition('"')[0]
        _exit([_invalid(name, f"not JSON: {error.__cause__}", os.environ.get(f"PIEPOWDER_{name.upper()}"))])
    except ValidationError as error:
        _exit([_problem(one) for one in error.errors()])


def _problem(error: ErrorDetails) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":  # the error's input is every other setting
        return f"PIEPOWDER_{name.upper()} is not set."
    return _invalid(name, error["msg"], error["input"])


def _invalid(name: str, message: str, given: object) -> str:
    value = without_password(given) if isinstance(given, str) else given
    return sentence(f"PIEPOWDER_{name.upper()} = {value!r} is not valid: {message.removeprefix('Value error, ')}")


def _exit(problems: Sequence[str]) -> NoReturn:
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(2)
