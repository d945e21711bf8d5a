"""What containers need done once: `python -m deploy.docker.jobs keys|control`, two jobs of docker-compose.yml.

Each may run again at any time and leaves what is there: a key that was handed out keeps working, and what somebody put
into force is not replaced by the sample. `control` waits for the router, for a bounded time, because Compose does not
try a job again.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import httpx

from deploy.initial import INTAKES_SCOPES, keep_key, put_sample_into_force
from deploy.local.errors import StackError
from shared.runtime.clock import SystemClock
from shared.runtime.errors import Transient
from shared.runtime.retry import Backoff

_PATIENCE: Final = 120.0
_PACE: Final = Backoff(first=0.2, longest=3.0)
_CLIENT: Final = "compose"
_clock = SystemClock()


def put_into_force(router: httpx.Client) -> list[str]:
    """The sample, where nothing is in force; waits for the router."""
    deadline, attempt = _clock.monotonic() + _PATIENCE, 0
    while True:
        try:
            return put_sample_into_force(router)
        except Transient as error:
            attempt += 1
            if _clock.monotonic() > deadline:
                raise
            print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(_PACE.delay(attempt))


def main(arguments: list[str]) -> int:
    """Do one job; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.docker.jobs", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    keys = jobs.add_parser("keys", help="make an API key, once, and one for intake's own calls")
    keys.add_argument("key_file", type=Path)
    keys.add_argument("clients_file", type=Path)
    keys.add_argument("intakes_key_file", type=Path)
    control = jobs.add_parser("control", help="put the sample into force where nothing is")
    control.add_argument("router", help="base URL")
    control.add_argument("key_file", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.job == "keys":
            keep_key(given.key_file, given.clients_file, _CLIENT)
            keep_key(given.intakes_key_file, given.clients_file, "intake", INTAKES_SCOPES)
            print(f"The API key is in {given.key_file}")
        else:
            key = given.key_file.read_text(encoding="utf-8").strip()
            headers = {"Authorization": f"Bearer {key}"}
            with httpx.Client(base_url=given.router, headers=headers, timeout=30, trust_env=False) as router:
                published = put_into_force(router)
            print(f"Put into force: {', '.join(published) or 'nothing, both were'}")
    except (StackError, Transient, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
