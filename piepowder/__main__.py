"""`python -m piepowder`, and the script `piepowder`."""

import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command; SIGTERM and a closed terminal are what Ctrl-C is, from the first moment on."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        from piepowder.cli import main as run  # noqa: PLC0415 - it takes a second, in which Ctrl-C may come

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
