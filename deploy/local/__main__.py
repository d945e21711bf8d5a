"""`python -m deploy.local`: Kafka and PostgreSQL on this machine until Ctrl-C or SIGTERM."""

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from deploy.local.stack import LocalStack
from shared.runtime.user_errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".piepowder"), help="the folder of the data")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="the number of Kafka nodes")
    options = parser.parse_args()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a process that a shell starts in the background ignores it by default.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        with LocalStack(options.folder, nodes=options.nodes, report=lambda line: print(line, flush=True)) as stack:
            print(f"Kafka       {stack.kafka}\nPostgreSQL  {stack.database_url}")
            for child in stack.children():
                print(f"Log         {child.log}")
            print("Ctrl-C stops them.", flush=True)
            while not (failures := stack.failures()):
                for child in stack.children():
                    child.bound_log()
                threading.Event().wait(0.5)
            for failure in failures:
                print(failure)
            sys.exit(1)
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
