"""The floor of single posts: the services' web server with nothing behind it. `python -m tests.bench.empty PORT`."""

import asyncio
import sys
from typing import Final

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

_NO_BODY: Final[list[tuple[bytes, bytes]]] = [(b"content-length", b"0")]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Take the whole body and answer an empty 202 (200 to a GET)."""
    while (await receive()).get("more_body"):
        pass
    status = 200 if scope["method"] == "GET" else 202
    await send({"type": "http.response.start", "status": status, "headers": _NO_BODY})
    await send({"type": "http.response.body"})


def config(port: int) -> uvicorn.Config:
    """The settings of `shared.lifecycle`."""
    return uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=30,
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config(int(sys.argv[1]))).serve())
