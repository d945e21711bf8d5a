"""The floors of single posts: the services' application, or only its web server, without any work.

`python -m tests.bench.empty PORT [application|server]`
"""

import asyncio
import sys
from typing import Final

import uvicorn
import uvloop
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.http.app import create_app
from shared.runtime.readiness import Readiness

_NO_BODY: Final[list[tuple[bytes, bytes]]] = [(b"content-length", b"0")]


def application() -> ASGIApp:
    """The application of every service, with a route that reads the body and returns an empty 202."""

    async def items(request: Request) -> Response:
        await request.body()
        return Response(status_code=202)

    app = create_app("empty", "The floor of single posts.", Readiness("empty"))
    app.add_route("/v1/items", items, methods=["POST"])
    return app


async def server(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the whole body and return an empty 202 (200 to a GET)."""
    while (await receive()).get("more_body"):
        pass
    status = 200 if scope["method"] == "GET" else 202
    await send({"type": "http.response.start", "status": status, "headers": _NO_BODY})
    await send({"type": "http.response.body"})


def config(app: ASGIApp, port: int) -> uvicorn.Config:
    """The settings of `shared.http.server`."""
    return uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
    )


if __name__ == "__main__":
    port, kind = int(sys.argv[1]), sys.argv[2]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config({"application": application(), "server": server}[kind], port)).serve())
