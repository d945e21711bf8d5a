"""Access tokens of people, from a small issuer on this machine: valid and invalid tokens, and an issuer that changes
its keys or does not respond."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from starlette.requests import Request
from starlette.responses import Response

from shared.auth.authenticator import Authenticator
from shared.auth.oidc import AccessTokens
from shared.http.app import create_app
from shared.runtime.clock import ManualClock
from shared.runtime.readiness import Readiness

START = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
AUDIENCE = "https://piepowder.example"
RSA, ANOTHER_RSA, SMALL_RSA = (rsa.generate_private_key(65537, bits) for bits in (2048, 2048, 1024))
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, Any] = {"rsa": (RSA, "RS256"), "ec": (EC, "ES256"), "ed": (ED, "EdDSA")}


def jwk(kid: str, key: Any, algorithm: str) -> dict[str, Any]:
    public: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": kid, "alg": algorithm, "use": "sig"}


class Issuer:
    """Serves its discovery document and its keys on the loopback; counts the discovery requests."""

    def __init__(self) -> None:
        self.jwks: Any = {"keys": [jwk(kid, *PRIVATE[kid]) for kid in PRIVATE]}
        self.stated_issuer: str | None = None
        self.jwks_uri: str | None = None
        self.status = 200
        self.discoveries = 0
        self.url = ""

    async def __aenter__(self) -> "Issuer":
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        document = self.jwks
        if path == b"/.well-known/openid-configuration":
            self.discoveries += 1
            document = {"issuer": self.stated_issuer or self.url, "jwks_uri": self.url + "/keys"}
            if self.jwks_uri is not None:
                document["jwks_uri"] = self.jwks_uri
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


class ProtectedApi:
    """An application that requires access tokens of an issuer."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.clock = ManualClock(START)
        self.tokens = AccessTokens(
            issuer.url,
            AUDIENCE,
            regions_claim="piepowder_regions",
            clock=self.clock,
            refresh_seconds=60.0,
            least_seconds=0.3,
        )
        authenticator = Authenticator([], clock=self.clock, regions=["eu"], tokens=self.tokens)
        self.seen: list[Any] = []
        app = create_app("test", "For tests.", Readiness("test"))

        async def guarded(request: Request) -> Response:
            self.seen.append(authenticator.principal(request, "reviews:write"))
            return Response()

        app.add_route("/v1/things", guarded)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def call(self, token: str) -> httpx.Response:
        return await self.http.get("/v1/things", headers={"authorization": f"Bearer {token}"})

    def claims(self, **other: Any) -> dict[str, Any]:
        now = self.clock.now()
        given = {
            "iss": self.issuer.url,
            "aud": AUDIENCE,
            "sub": "jane@example.org",
            "client_id": "console",
            "jti": "1",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=10)).timestamp()),
            "scope": "openid reviews:read reviews:write",
            "piepowder_regions": ["eu"],
        } | other
        return {name: value for name, value in given.items() if value is not None}

    def token(self, kid: str = "rsa", *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        key, algorithm = PRIVATE[kid]
        headers = {"typ": "at+jwt", "kid": kid} | (header or {})
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(self.claims(**claims), key, algorithm, headers=headers)


@pytest.fixture
async def api() -> AsyncIterator[ProtectedApi]:
    async with Issuer() as issuer:
        api = ProtectedApi(issuer)
        async with api.http:
            await api.tokens.refresh()
            yield api


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def signed_by_hand(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{base64.urlsafe_b64encode(sign(text.encode())).rstrip(b'=').decode()}"


@pytest.mark.parametrize("kid", PRIVATE)
async def test_a_token_gives_the_rights_in_its_claims_under_a_pseudonym(api: ProtectedApi, kid: str) -> None:
    assert (await api.call(api.token(kid))).status_code == 200
    [person] = api.seen
    assert person.name.startswith("person-")
    assert "jane" not in repr(person)
    assert (person.scopes, person.regions) == ({"reviews:read", "reviews:write"}, {"eu"})


async def test_a_person_always_has_the_same_pseudonym_and_another_person_has_another_one(api: ProtectedApi) -> None:
    for subject in ("jane@example.org", "jane@example.org", "john@example.org"):
        await api.call(api.token(sub=subject))
    jane, again, john = (person.name for person in api.seen)
    assert jane == again != john


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"scope": "openid"}, 403),
        ({"scope": None}, 403),
        ({"scope": 7}, 403),
        ({"piepowder_regions": ["us"]}, 403),
        ({"piepowder_regions": None}, 403),
        ({"piepowder_regions": "us eu"}, 200),
        ({"piepowder_regions": ["*"]}, 200),
        ({"aud": [AUDIENCE, "https://other.example"]}, 200),
        ({"aud": "https://other.example"}, 401),
        ({"aud": None}, 401),
        ({"iss": "https://other.example"}, 401),
        ({"iss": None}, 401),
        ({"sub": None}, 401),
        ({"sub": ""}, 401),
        ({"sub": "\ud800"}, 401),
        ({"exp": 10**400}, 401),
        ({"exp": float("nan")}, 401),
        ({"exp": float("inf")}, 401),
        ({"nbf": -(10**400)}, 401),
        ({"exp": None}, 401),
        ({"exp": "soon"}, 401),
        ({"exp": True}, 401),
        ({"iat": None}, 401),
        ({"exp": int(START.timestamp()) - 4}, 200),
        ({"exp": int(START.timestamp()) - 6}, 401),
        ({"nbf": int(START.timestamp()) + 4}, 200),
        ({"nbf": int(START.timestamp()) + 6}, 401),
        ({"iat": int(START.timestamp()) + 6}, 401),
    ],
)
async def test_each_claim_is_checked(api: ProtectedApi, claims: dict[str, Any], status: int) -> None:
    answer = await api.call(api.token(**claims))
    assert answer.status_code == status, answer.text
    if status == 401:
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": None},
        {"kid": None},
        {"kid": "ec"},
        {"kid": "nobody's"},
        {"kid": "../../dev/null"},
        {"kid": "' OR 1=1 --"},
        {"crit": ["b64"], "b64": True},
        {"crit": ["\ud800"]},
    ],
)
async def test_a_token_with_an_invalid_header_is_rejected(api: ProtectedApi, header: dict[str, Any]) -> None:
    assert (await api.call(api.token(header=header))).status_code == 401


async def test_the_full_media_type_is_accepted_as_type(api: ProtectedApi) -> None:
    assert (await api.call(api.token(header={"typ": "application/AT+JWT"}))).status_code == 200


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE"])
async def test_a_token_without_a_signature_is_rejected(api: ProtectedApi, algorithm: str) -> None:
    header = {"typ": "at+jwt", "alg": algorithm, "kid": "rsa"}
    assert (await api.call(signed_by_hand(header, api.claims(), lambda _: b""))).status_code == 401
    text = api.token()
    assert (await api.call(text.rpartition(".")[0] + ".")).status_code == 401


async def test_a_token_signed_with_a_public_key_as_its_secret_is_rejected(api: ProtectedApi) -> None:
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (public, public.strip(), json.dumps(jwk("rsa", RSA, "RS256")).encode(), b""):
        forged = signed_by_hand(
            {"typ": "at+jwt", "alg": "HS256", "kid": "rsa"},
            api.claims(),
            lambda text, secret=secret: hmac.new(secret, text, hashlib.sha256).digest(),  # type: ignore[misc] # bound now
        )
        assert (await api.call(forged)).status_code == 401


async def test_a_key_in_the_header_of_a_token_is_not_used(api: ProtectedApi) -> None:
    own = jwk("rsa", ANOTHER_RSA, "RS256")
    for header in ({"jwk": own}, {"jku": f"{api.issuer.url}/mine"}, {"x5u": f"{api.issuer.url}/mine"}):
        headers = {"typ": "at+jwt", "kid": "rsa", **header}
        assert (await api.call(jwt.encode(api.claims(), ANOTHER_RSA, "RS256", headers=headers))).status_code == 401


async def test_a_changed_token_is_rejected(api: ProtectedApi) -> None:
    head, _, signature = api.token().split(".")
    assert (await api.call(f"{head}.{encoded(api.claims(scope='clients:write'))}.{signature}")).status_code == 401


@pytest.mark.parametrize("text", ["a.b.c", "..", f"{'e' * 9000}.e.e", "é.é.é", f"{encoded([])}.{encoded({})}.x"])
async def test_a_text_that_is_no_token_is_rejected_with_401(api: ProtectedApi, text: str) -> None:
    answer = await api.http.get("/v1/things", headers=[(b"authorization", b"Bearer " + text.encode("latin-1"))])
    assert answer.status_code == 401


async def test_keys_that_are_small_private_or_for_another_use_are_ignored(api: ProtectedApi) -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "alg": "HS256"}
    private = {**jwt.get_algorithm_by_name("RS256").to_jwk(ANOTHER_RSA, as_dict=True), "kid": "rsa"}
    small, encryption = jwk("rsa", SMALL_RSA, "RS256"), {**jwk("rsa", RSA, "RS256"), "use": "enc"}
    odd = {**jwk("rsa", RSA, "RS256"), "alg": "RS512"}
    broken = {**jwk("rsa", RSA, "RS256"), "n": "AA"}
    api.issuer.jwks = {"keys": [secret, private, small, encryption, odd, broken, "?", jwk("ec", EC, "ES256")]}
    await api.tokens.refresh()
    assert (await api.call(api.token("rsa"))).status_code == 401
    assert (await api.call(api.token("ec"))).status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("status", 503, "returned status 503"),
        ("stated_issuer", "https://other.example", "names the issuer 'https://other.example'"),
        ("jwks_uri", "http://other.example/keys", "is not HTTPS"),
        ("jwks_uri", "file:///etc/passwd", "is not HTTPS"),
        ("jwks_uri", "", "is not HTTPS"),
        ("jwks", {"keys": []}, "no usable key"),
        ("jwks", {}, "no usable key"),
        ("jwks", [], "returned no JSON object"),
        ("jwks", b"not JSON", "DecodeError"),
        ("jwks", b"[" + b" " * (1024 * 1024 + 1) + b"]", "more than 1048576 bytes"),
    ],
)
async def test_while_the_issuer_returns_no_usable_keys_its_last_keys_are_valid_for_a_day(
    api: ProtectedApi, field: str, value: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    setattr(api.issuer, field, value)
    stop = asyncio.Event()
    following = asyncio.create_task(api.tokens.run(stop))
    async with asyncio.timeout(20):
        while not caplog.records:  # noqa: ASYNC110 - another task
            await asyncio.sleep(0.01)
    assert says in vars(caplog.records[0])["error"]
    assert (await api.call(api.token())).status_code == 200
    api.clock.advance(timedelta(hours=25))
    answer = await api.call(api.token())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    stop.set()
    await following


async def test_before_the_first_keys_of_the_issuer_a_token_gets_503() -> None:
    async with Issuer() as issuer:
        api = ProtectedApi(issuer)
        async with api.http:
            assert (await api.call(api.token())).status_code == 503


async def test_unknown_keys_cause_a_refresh_soon_but_not_for_every_call(api: ProtectedApi) -> None:
    stop = asyncio.Event()
    following = asyncio.create_task(api.tokens.run(stop))
    api.issuer.jwks = {"keys": [jwk("rsa", ANOTHER_RSA, "RS256"), jwk("next", RSA, "RS256")]}
    token = api.token(header={"kid": "next"})
    async with asyncio.timeout(20):
        while (await api.call(token)).status_code != 200:
            await api.call(api.token(header={"kid": "random"}))
            await asyncio.sleep(0.02)
    assert (await api.call(api.token())).status_code == 401  # its key is no longer the issuer's
    discoveries, loop = api.issuer.discoveries, asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < 1.0:
        await api.call(api.token(header={"kid": "random"}))
        await asyncio.sleep(0.01)
    assert 1 <= api.issuer.discoveries - discoveries <= 4
    stop.set()
    await following
