"""Settings come from environment variables, typed, with defaults that work locally.

A value that does not fit stops the process with a sentence that names the variable, what it was and what is wrong.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from shared.validation.regions import check_region


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


_LOOPBACK: Final = (("http", "127.0.0.1"), ("http", "::1"), ("http", "localhost"))

RegionId: TypeAlias = Annotated[str, AfterValidator(check_region)]
RegionIds: TypeAlias = Annotated[list[RegionId], NoDecode, BeforeValidator(_split), Field(min_length=1)]


def is_private(url: str) -> bool:
    """Whether nobody on the way reads what a URL answers: HTTPS, or HTTP on this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme, parts.hostname) in _LOOPBACK)


class CommonSettings(BaseSettings):
    """What every service needs; each service's `settings.py` adds its own. Names are prefixed with `PIEPOWDER_`."""

    model_config = SettingsConfigDict(env_prefix="PIEPOWDER_", extra="ignore", frozen=True)

    kafka: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers, host:port[,host:port...]")
    kafka_by_region: dict[str, str] = Field(
        default={}, description='Bootstrap servers of regions with a cluster of their own, as JSON: {"eu": "host:port"}'
    )
    clients_file: Path | None = Field(None, description="The first keys' hashes, scopes and regions (JSON)")
    oidc_issuer: str = Field("", description="Who issues people's access tokens, https://...; empty takes none")
    oidc_audience: str = Field("", description="What their `aud` must name", validate_default=True)
    oidc_regions_claim: str = Field("piepowder_regions", min_length=1, description="The claim that lists their regions")
    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 takes a free one")
    instance: str = Field(
        default_factory=socket.gethostname,
        description="This process among its replicas (static group membership): the pod's name; never two at a time",
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    drain_seconds: float = Field(10.0, gt=0, description="How long a stop may take to finish what is under way")
    batch_records: int = Field(2000, ge=1, le=50_000, description="Records taken from Kafka at a time, at most")
    parked_keys: int = Field(10_000, ge=1, description="Keys that may be parked at a time; past it the service stops")

    @field_validator("oidc_issuer")
    @classmethod
    def _is_https(cls, issuer: str) -> str:
        if issuer and not is_private(issuer):
            raise ValueError("an issuer is https://..., or http:// on this machine")
        return issuer

    @field_validator("oidc_audience")
    @classmethod
    def _comes_with_an_issuer(cls, audience: str, info: ValidationInfo) -> str:
        if info.data.get("oidc_issuer") and not audience:
            raise ValueError("it is needed beside PIEPOWDER_OIDC_ISSUER: a token for somebody else must open nothing")
        return audience

    def bootstrap(self, region: str) -> str:
        """The Kafka cluster of a region."""
        return self.kafka_by_region.get(region, self.kafka)


S = TypeVar("S", bound=CommonSettings)


def load(kind: type[S]) -> S:
    """The settings in the environment; ends the process with status 2 and one line for each value that does not fit."""
    try:
        return kind()
    except SettingsError as error:  # a value that is to be JSON and is not; the field stands in the text alone
        name = str(error).partition('field "')[2].partition('"')[0]
        _refuse([(name, f"not JSON: {error.__cause__}", os.environ.get(f"PIEPOWDER_{name.upper()}"))])
    except ValidationError as error:
        _refuse([(".".join(str(part) for part in e["loc"]), e["msg"], e["input"]) for e in error.errors()])


def _refuse(problems: list[tuple[str, str, object]]) -> NoReturn:
    for name, message, given in problems:
        print(f"PIEPOWDER_{name.upper()} = {given!r} is not usable: {message}", file=sys.stderr)
    sys.exit(2)
