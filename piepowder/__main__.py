"""`python -m piepowder`, and the script `piepowder`."""

import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command. SIGTERM and SIGHUP (a closed terminal) act like Ctrl-C, also during imports."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        from piepowder.cli import main as run  # noqa: PLC0415 - Ctrl-C may arrive during the import

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
