"""The page `/docs`: everything that it needs comes from the service itself."""

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from shared.http.app import create_app
from shared.http.docs_page import POLICY
from shared.runtime.readiness import Readiness

HOST = "http://service"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


class References(HTMLParser):
    """The addresses on a page, and the number of inline scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [value for name in ("src", "href", "action") if (value := values.get(name)) is not None]
        self.inline += (tag == "script" and "src" not in values) or tag == "style" or "style" in values


@pytest.fixture
def app() -> FastAPI:
    return create_app("test", "A service <for> tests.", Readiness("test"))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HOST) as client:
        yield client


async def page_of(client: httpx.AsyncClient) -> References:
    response = await client.get("/docs")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    references = References()
    references.feed(response.text)
    return references


async def test_the_page_and_everything_that_it_refers_to_is_served_by_the_service_itself(
    client: httpx.AsyncClient,
) -> None:
    page = await page_of(client)
    addresses = {urljoin(f"{HOST}/docs", reference) for reference in page.found}
    assert {urlsplit(address).path for address in addresses} == {
        "/docs/swagger-ui-bundle.js",
        "/docs/start.js",
        "/docs/swagger-ui.css",
        "/docs/favicon-32x32.png",
        "/openapi.json",
    }
    for address in addresses:
        assert address.startswith(f"{HOST}/")
        response = await client.get(address)
        assert (response.status_code, bool(response.content)) == (200, True), address
    style = (await client.get("/docs/swagger-ui.css")).text
    assert not [url for url in re.findall(r"url\(['\"]?([^'\")]*)", style) if not url.startswith("data:")]
    assert "@import" not in style
    start = (await client.get("/docs/start.js")).text
    assert (await client.get(urljoin(f"{HOST}/docs", "openapi.json"))).json()["info"]["title"] == "Piepowder test"
    assert 'url: "openapi.json"' in start
    assert "validatorUrl: null" in start  # otherwise, the page calls validator.swagger.io


async def test_a_strict_content_security_policy_covers_the_page(client: httpx.AsyncClient) -> None:
    assert (await client.get("/docs")).headers["content-security-policy"] == POLICY
    directives = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    assert directives["default-src"] == "'none'"
    assert {directives[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in POLICY
    assert (await page_of(client)).inline == 0


async def test_the_page_works_behind_a_path_prefix(client: httpx.AsyncClient) -> None:
    for reference in (await page_of(client)).found:
        assert urljoin(f"{HOST}/moderation/intake/docs", reference).startswith(f"{HOST}/moderation/intake/")


async def test_the_page_and_its_files_are_not_in_the_openapi_document(client: httpx.AsyncClient) -> None:
    assert set((await client.get("/openapi.json")).json()["paths"]) == {"/healthz", "/readyz", "/metrics"}


@pytest.fixture
async def address(app: FastAPI) -> AsyncIterator[str]:
    """The address of the application on a real server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving


def browser() -> str:
    named = os.environ.get("PIEPOWDER_CHROMIUM")
    found = named or next((path for name in BROWSERS if (path := shutil.which(name)) is not None), None)
    if found is None:
        pytest.skip("no Chromium here: set PIEPOWDER_CHROMIUM to its path")
    return found


async def test_a_browser_without_any_other_host_renders_every_operation(address: str) -> None:
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--enable-logging=stderr",
        "--virtual-time-budget=20000",
        "--timeout=60000",
        "--dump-dom",
    ]
    process = await asyncio.create_subprocess_exec(
        browser(), *options, f"{address}/docs", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    shown, messages = await process.communicate()
    text = shown.decode()
    for path in ("/healthz", "/readyz", "/metrics"):
        assert f'data-path="{path}"' in text, messages.decode()[-2000:]
    assert "Content Security Policy" not in messages.decode()
