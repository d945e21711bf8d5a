"""The first steps of a system in containers: `python -m deploy.docker.jobs keys|control`, jobs of docker-compose.yml.

Both may run at every start: an existing key stays valid, and the sample does not replace published rules. `control`
waits for the router for a limited time, because Compose does not repeat a job.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import httpx

from deploy.initial import ensure_key, publish_sample
from deploy.services import CALLERS
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Transient
from shared.runtime.retry import Backoff
from shared.runtime.user_errors import UserError

_PATIENCE: Final = 120.0
_PACE: Final = Backoff(first=0.2, longest=3.0)
_CLIENT: Final = "compose"
_clock = SystemClock()


def publish(router: httpx.Client) -> list[str]:
    """Publish the sample, unless other rules are in force; waits for the router."""
    deadline, attempt = _clock.monotonic() + _PATIENCE, 0
    while True:
        try:
            return publish_sample(router)
        except Transient as error:
            attempt += 1
            if _clock.monotonic() > deadline:
                raise
            print(f"{error} Trying again.", file=sys.stderr, flush=True)
            time.sleep(_PACE.delay(attempt))


def main(arguments: list[str]) -> int:
    """Run one job; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.docker.jobs", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    keys = jobs.add_parser("keys", help="create an API key, and one for each service that calls others")
    keys.add_argument("key_file", type=Path)
    keys.add_argument("clients_file", type=Path)
    names = ", ".join(service.name for service in CALLERS)
    keys.add_argument("service_key_files", type=Path, nargs=len(CALLERS), help=f"the key files of: {names}")
    control = jobs.add_parser("control", help="publish the sample, unless other rules are in force")
    control.add_argument("router", help="base URL")
    control.add_argument("key_file", type=Path)
    parsed = parser.parse_args(arguments)
    try:
        if parsed.job == "keys":
            ensure_key(parsed.key_file, parsed.clients_file, _CLIENT)
            for service, key_file in zip(CALLERS, parsed.service_key_files, strict=True):
                ensure_key(key_file, parsed.clients_file, service.name, service.scopes)
            print(f"The API key is in {parsed.key_file}")
        else:
            key = parsed.key_file.read_text(encoding="utf-8").strip()
            headers = {"Authorization": f"Bearer {key}"}
            with httpx.Client(base_url=parsed.router, headers=headers, timeout=30, trust_env=False) as router:
                published = publish(router)
            print(f"Published: {', '.join(published) or 'nothing, both are in force already'}")
    except (UserError, Transient, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
