"""The image's health check: status 0 when this container's service answers `/healthz`, or the path that is given.

What it answers is printed, so that `docker inspect` says what a service that is not ready lacks.
"""

import os
import sys
import urllib.error
import urllib.request


def main(path: str = "/healthz") -> int:
    """The exit status; the port is the service's own, PIEPOWDER_PORT."""
    url = f"http://127.0.0.1:{os.environ['PIEPOWDER_PORT']}{path}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as error:
        print(error.read().decode())
        return 1
    except OSError as error:
        print(f"{url} does not answer: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
