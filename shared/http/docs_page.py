"""The web page `/docs` of a service: Swagger UI with the service's OpenAPI document.

The page works without internet access. Its script and style are files of the package `fastapi-swagger`, and every
address on the page is relative, so it also works behind a proxy with a path prefix. The Content-Security-Policy forbids
inline scripts, inline style sheets, and requests to any other host. See docs/adr/0047-docs-without-other-hosts.md.
"""

from collections.abc import Awaitable, Callable
from functools import lru_cache
from html import escape
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
_FILE_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "public, max-age=3600"}
_PACKAGE: Final = "fastapi_swagger.resources"
_SCRIPT: Final = "text/javascript; charset=utf-8"
_FILES: Final = {
    "swagger-ui-bundle.js": _SCRIPT,
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
# Without `validatorUrl: null`, the page asks validator.swagger.io to check the document.
_START: Final = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""


def _page(title: str) -> str:
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
</head>
<body>
<noscript>This page needs JavaScript. The OpenAPI document is at <a href="openapi.json">openapi.json</a>.</noscript>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""


def router(title: str) -> APIRouter:
    """`/docs`, and the files that it loads from `/docs/...`; they need no key, and are not in the OpenAPI document."""
    routes = APIRouter(include_in_schema=False)
    page = _page(title)

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    @routes.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, headers=_FILE_HEADERS, media_type=_SCRIPT)

    for name, media_type in _FILES.items():
        routes.add_api_route(f"/docs/{name}", _sender(name, media_type), methods=["GET"], name=name)
    return routes


def _sender(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(_content(name), headers=_FILE_HEADERS, media_type=media_type)

    return send


@lru_cache
def _content(name: str) -> bytes:
    """A file of the package, read at the first request for it."""
    return files(_PACKAGE).joinpath(name).read_bytes()
