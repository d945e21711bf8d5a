"""`python -m tests.bench [--only intake,router,decision,audit,e2e] [--items N] [--rounds N] [--out FILE]`."""

import argparse
import asyncio
import gc
import logging
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import uvloop

from deploy.local.errors import StackError
from deploy.local.stack import LocalStack
from shared.clock import SystemClock
from shared.errors import PiepowderError
from shared.kafka.producer import KafkaProducer
from tests.bench import e2e, machine, report, stages
from tests.bench.kafka import Watch
from tests.bench.report import Figure
from tests.bench.rooms import House
from tests.bench.stages import Bench

_STAGES: Final[Mapping[str, Callable[[Bench], Awaitable[list[Figure]]]]] = {
    "intake": stages.intake,
    "router": stages.router,
    "decision": stages.decision,
    "audit": stages.audit,
    "e2e": e2e.end_to_end,
}
_STAGE_SECONDS: Final = 300.0
_clock = SystemClock()


def main() -> None:
    arguments = _arguments()
    gc.freeze()
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # it warns of every topic that is a moment old
    lines = ["", *machine.describe(), f"Command: python -m tests.bench {' '.join(sys.argv[1:])}".rstrip(), ""]
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures, failures = runner.run(_run(arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("Stopped; nothing is left running.")
    text = "\n".join([*lines, report.table(figures), "", *failures])
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if failures else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures each stage beside its floor.")
    names = [*_STAGES]
    parser.add_argument("--only", default=",".join(names), help="stages, comma-separated (default: all)")
    parser.add_argument("--items", type=int, default=30_000, help="items a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count, of each side (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    parser.add_argument("--profile", type=Path, help="run services under cProfile, into this folder: figures are lower")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(names):
        parser.error(f"no stage named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return arguments


async def _run(arguments: argparse.Namespace) -> tuple[list[Figure], list[str]]:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    figures: list[Figure] = []
    failures: list[str] = []
    for name in arguments.only:
        try:
            with tempfile.TemporaryDirectory(prefix="piepowder-bench-") as folder:
                async with asyncio.timeout(_STAGE_SECONDS):
                    found = await _stage(name, Path(folder), arguments)
            figures += found
            _say(report.table(found))
        except (AssertionError, ConnectionError, ExceptionGroup, PiepowderError, StackError, TimeoutError) as error:
            failures.append(f"{name}: not measured. {error!r}")
            _say(failures[-1])
    return figures, failures


async def _stage(name: str, folder: Path, arguments: argparse.Namespace) -> list[Figure]:
    """A stage on servers of its own: what one leaves behind does not slow the next."""
    stack = LocalStack(folder / "stack", say=_say)
    try:
        began = _clock.monotonic()
        await asyncio.to_thread(stack.start)
        house = House(stack, folder / "services", arguments.profile)
        producer = KafkaProducer(stack.kafka, client_id="bench")
        async with Watch.on(stack.kafka) as watch:
            try:
                return await _STAGES[name](
                    Bench(house, watch, producer, arguments.rounds, arguments.items, _say, began)
                )
            finally:
                await producer.stop()
    finally:
        await asyncio.to_thread(stack.stop)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
