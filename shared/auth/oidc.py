"""Access tokens of people: JWTs of one issuer, verified locally, so that no request waits for the issuer.

The issuer's keys are fetched in advance: at start, every few minutes, and soon after a token with an unknown key, with
a minimum interval that protects the issuer from a flood of such tokens. While the issuer does not respond, the known
keys stay valid for a day. A token cannot choose its verification: the algorithm (one of three) belongs to the key that
the issuer published under the token's `kid`; other header fields are ignored. Source: RFC 9068 (JWT profile
for access tokens), RFC 8725 (JWT best current practices), OpenID Connect Discovery 1.0.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from shared.auth import clients
from shared.auth.authenticator import SKEW_SECONDS, TokenRejected
from shared.auth.principal import Principal
from shared.contracts import ids
from shared.http.problems import NOT_READY
from shared.runtime import metrics
from shared.runtime.clock import Clock
from shared.runtime.retry import Backoff, wait
from shared.runtime.settings import is_private

log = logging.getLogger(__name__)

_ALGORITHMS: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_MIN_RSA_BITS: Final = 2048
_TYPES: Final = ("at+jwt", "application/at+jwt")
_MAX_TOKEN: Final = 8192
_MAX_DOCUMENT_BYTES: Final = 1024 * 1024
_MAX_KEYS: Final = 100
_REQUEST_SECONDS: Final = 5.0
_MAX_TIME: Final = 1e12  # seconds since the epoch
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_KEYS_KEPT_SECONDS: Final = 24 * 3600.0


class _FetchFailed(Exception):  # noqa: N818 - an outcome
    """The issuer's keys could not be fetched; the text is the reason."""


@dataclass(eq=False)
class AccessTokens:
    """Verifies tokens of `issuer` for `audience`. `regions_claim` names the claim that lists the regions."""

    issuer: str
    audience: str
    _: KW_ONLY
    regions_claim: str
    clock: Clock
    refresh_seconds: float = 300.0
    least_seconds: float = 10.0
    client: Callable[[], httpx.AsyncClient] = lambda: httpx.AsyncClient(timeout=_REQUEST_SECONDS)

    def __post_init__(self) -> None:
        self._keys: dict[tuple[str, str], jwt.PyJWK] = {}
        self._fetched = 0.0
        self._wanted = asyncio.Event()

    def principal(self, token: str) -> Principal:
        """The holder of a token, under a pseudonym; raises TokenRejected, or a 503 Problem without the issuer's
        keys."""
        if not self._keys or self.clock.monotonic() - self._fetched > _KEYS_KEPT_SECONDS:
            self._wanted.set()
            detail = "The keys of the token issuer are not known yet. Send the same request again; API keys work."
            raise NOT_READY(detail, retry_after=5)
        claims = self._verified(token)
        self._check_times(claims)
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject or _SURROGATE.search(subject):
            raise TokenRejected("bad-token", "The access token's `sub` is missing or invalid.")
        name = clients.PERSON + ids.derive("person", self.issuer, subject).replace("-", "")[:16]
        scopes = clients.SCOPES.intersection(_words(claims.get("scope")))
        regions = frozenset(r for r in _words(claims.get(self.regions_claim)) if clients.region_fault(r) is None)
        return Principal(name, scopes, regions)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the issuer's keys up to date until `stop` is set."""
        attempt, backoff = 0, Backoff(first=1.0, longest=60.0)
        while not stop.is_set():
            self._wanted.clear()
            try:
                await self.refresh()
            except _FetchFailed as error:
                attempt += 1
                pause = backoff.delay(attempt)
                metrics.OIDC_REFRESHES.labels("failed").inc()
                log.warning("the keys of the token issuer could not be fetched", extra={"error": str(error)})
            else:
                attempt, pause = 0, self.refresh_seconds
                metrics.OIDC_REFRESHES.labels("done").inc()
            await wait(stop, min(pause, self.least_seconds))
            await self._until_wanted(stop, pause - self.least_seconds)

    async def refresh(self) -> None:
        """Fetch the issuer's keys and replace the known ones."""
        try:
            async with self.client() as client, asyncio.timeout(4 * _REQUEST_SECONDS):
                about = await _get(client, f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                if about.get("issuer") != self.issuer:
                    raise _FetchFailed(
                        f"its document names the issuer {about.get('issuer')!r:.200}, not {self.issuer!r}"
                    )
                found = (await _get(client, str(about.get("jwks_uri")))).get("keys")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, msgspec.DecodeError, ValueError) as error:
            raise _FetchFailed(repr(error)) from error
        keys = dict(key for jwk in (found if isinstance(found, list) else [])[:_MAX_KEYS] if (key := _key(jwk)))
        if not keys:
            raise _FetchFailed(f"no usable key; expected {', '.join(_ALGORITHMS.values())} with a `kid`")
        self._keys = keys
        self._fetched = self.clock.monotonic()

    async def _until_wanted(self, stop: asyncio.Event, seconds: float) -> None:
        if seconds <= 0:
            return
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._wanted.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()

    def _verified(self, token: str) -> Mapping[str, Any]:
        if len(token) > _MAX_TOKEN:
            raise TokenRejected("bad-token", f"The access token has more than {_MAX_TOKEN} characters.")
        try:
            header = jwt.get_unverified_header(token)
            key = self._key_of(header)
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self.audience,
                issuer=self.issuer,
                options={
                    "require": ["exp", "iat", "iss", "aud", "sub"],
                    "verify_exp": False,  # `_check_times` verifies them, with `self.clock`
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            reason = str(error).encode("ascii", "backslashreplace").decode()  # `error` can quote a lone surrogate
            raise TokenRejected("bad-token", f"The access token is invalid: {reason}.") from error

    def _key_of(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        kind, algorithm, kid = (header.get(name) for name in ("typ", "alg", "kid"))
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise TokenRejected("bad-token", f"The token's `typ` is {kind!r:.100}; expected 'at+jwt'.")
        if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS.values():
            raise TokenRejected(
                "bad-token", f"The token's `alg` is {algorithm!r:.100}; expected RS256, ES256 or EdDSA."
            )
        if not isinstance(kid, str):
            raise TokenRejected("bad-token", "The token's header has no `kid`, which names the issuer's key.")
        key = self._keys.get((kid, algorithm))
        if key is None:
            self._wanted.set()
            detail = f"The issuer's key {kid!r:.100} is unknown and is being fetched. Send the request again soon."
            raise TokenRejected("unknown-signing-key", detail)
        return key

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self.clock.now().timestamp()
        for name in ("exp", "iat", "nbf"):
            moment = claims.get(name, now)
            if isinstance(moment, bool) or not isinstance(moment, int | float) or not abs(moment) < _MAX_TIME:
                raise TokenRejected("bad-token", f"The access token's `{name}` is not a number of seconds.")
            if name == "exp" and now >= moment + SKEW_SECONDS:
                raise TokenRejected("expired-token", "The access token has expired; get a new one from its issuer.")
            if name != "exp" and now < moment - SKEW_SECONDS:
                raise TokenRejected("bad-token", f"The access token's `{name}` is in the future: compare the clocks.")


async def _get(client: httpx.AsyncClient, url: str) -> Mapping[str, Any]:
    if not is_private(url):
        raise _FetchFailed(f"{url!r:.200} is not HTTPS")
    text = b""
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
        if response.status_code != 200:
            raise _FetchFailed(f"{url} returned status {response.status_code}")
        async for part in response.aiter_bytes():
            text += part
            if len(text) > _MAX_DOCUMENT_BYTES:
                raise _FetchFailed(f"{url} returned more than {_MAX_DOCUMENT_BYTES} bytes")
    document = msgspec.json.decode(text)
    if not isinstance(document, dict):
        raise _FetchFailed(f"{url} returned no JSON object")
    return document


def _key(jwk: object) -> tuple[tuple[str, str], jwt.PyJWK] | None:
    """A usable key with its `kid` and algorithm, else None."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or "d" in jwk or not isinstance(jwk.get("kid"), str):
        return None
    kind = jwk.get("kty")
    algorithm = _ALGORITHMS.get((kind, None if kind == "RSA" else jwk.get("crv"))) if isinstance(kind, str) else None
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        log.warning("a key of the issuer cannot be used", extra={"error": repr(error)})
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _MIN_RSA_BITS:
        return None
    return (jwk["kid"], algorithm), key


def _words(claim: object) -> list[str]:
    if isinstance(claim, str):
        return claim.split()
    return [word for word in claim if isinstance(word, str)] if isinstance(claim, list) else []
