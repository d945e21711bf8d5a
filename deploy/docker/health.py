"""The image's health check: status 0 when this container's service responds to `/healthz`, or to the given path.

The response is printed, so that `docker inspect` shows what is missing until the service is ready.
"""

import os
import sys
import urllib.error
import urllib.request


def main(path: str = "/healthz") -> int:
    """Check the service at PIEPOWDER_PORT; returns the exit status."""
    url = f"http://127.0.0.1:{os.environ['PIEPOWDER_PORT']}{path}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as response:
            print(response.read().decode())
    except urllib.error.HTTPError as error:
        print(error.read().decode())
        return 1
    except OSError as error:
        print(f"{url} does not respond: {error}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
