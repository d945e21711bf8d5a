"""`python -m tests.bench [--only intake,router] [--items N] [--rounds N] [--profile] [--publish] [--out FILE]`."""

import argparse
import asyncio
import gc
import logging
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from subprocess import SubprocessError
from typing import Final

import uvloop

from deploy.local.stack import LocalStack
from shared.kafka.producer import KafkaProducer
from shared.runtime.clock import SystemClock
from shared.runtime.errors import PiepowderError
from shared.runtime.user_errors import UserError
from tests.bench import document, e2e, growth, lookups, machine, policies, report, soak, stages
from tests.bench.costs import count_statements
from tests.bench.kafka import Watch
from tests.bench.report import Figure
from tests.bench.services import Launcher
from tests.bench.stages import Bench

STAGES: Final[Mapping[str, Callable[[Bench], Awaitable[list[Figure]]]]] = {
    "intake": stages.intake,
    "router": stages.router,
    "policies": policies.scaling,
    "decision": stages.decision,
    "audit": stages.audit,
    "e2e": e2e.end_to_end,
    "growth": growth.growth,
    "lookups": lookups.lookups,
    "soak": soak.soak,
}
_STAGE_SECONDS: Final = {"growth": 1_200.0, "lookups": 1_500.0}
_OTHER_SECONDS: Final = 400.0
_FAILURES: Final = (
    AssertionError,
    ConnectionError,
    ExceptionGroup,
    PiepowderError,
    UserError,
    SubprocessError,
    TimeoutError,
)
_WHERE = "Kafka, PostgreSQL, services and load run on this machine, new for each stage"
_clock = SystemClock()


def main() -> None:
    arguments = _arguments()
    _say(f"{_WHERE}: {', '.join(arguments.only)}.")
    gc.freeze()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it warns about every new topic
    arguments.flame_graphs = Path(tempfile.mkdtemp(prefix="piepowder-flame-graphs-")) if arguments.profile else None
    where = [*machine.describe(), f"`python -m tests.bench {' '.join(sys.argv[1:])}`"]
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found, failures = runner.run(_run(arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("Stopped; nothing is left running.")
    texts = {name: document.section(where, figures) for name, figures in found.items()}
    text = "\n\n".join([*texts.values(), *failures])
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    if arguments.publish:
        document.publish(texts)
    if arguments.flame_graphs is not None:
        _say(f"The flame graphs are in {arguments.flame_graphs}.")
    sys.exit(1 if failures else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=f"{_WHERE}; each stage is measured next to its floor."
    )
    names = [*STAGES]
    parser.add_argument("--only", default=",".join(names), help="stages, comma-separated (default: all)")
    parser.add_argument("--items", type=int, default=30_000, help="items per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of each side (default: %(default)s)")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="also measure the cost of an item on Kafka and PostgreSQL, and draw flame graphs into a temporary folder",
    )
    parser.add_argument("--grown", type=int, default=1_000_000, help="items for growth (default: %(default)s)")
    parser.add_argument("--stored", type=int, default=5_000_000, help="items for lookups (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="minutes of the steady load in soak (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    parser.add_argument("--publish", action="store_true", help="write the figures into docs/performance.md")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(names):
        parser.error(f"unknown stage: {', '.join(sorted(unknown))}; the stages are {', '.join(names)}")
    return arguments


async def _run(arguments: argparse.Namespace) -> tuple[dict[str, list[Figure]], list[str]]:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    found: dict[str, list[Figure]] = {}
    failures: list[str] = []
    for name in arguments.only:
        try:
            with tempfile.TemporaryDirectory(prefix="piepowder-bench-") as folder:
                async with asyncio.timeout(_seconds(name, arguments)):
                    found[name] = await _stage(name, Path(folder), arguments)
            _say(report.table(found[name]))
        except _FAILURES as error:
            failures.append(f"{name}: not measured. {error!r}")
            _say(failures[-1])
    return found, failures


def _seconds(name: str, arguments: argparse.Namespace) -> float:
    """The time limit of a stage in seconds."""
    steady = 66 * arguments.minutes if name == "soak" else 0.0
    return _STAGE_SECONDS.get(name, _OTHER_SECONDS) + steady


async def _stage(name: str, folder: Path, arguments: argparse.Namespace) -> list[Figure]:
    """Run a stage on servers of its own, so that the data of one stage does not slow down the next."""
    stack = LocalStack(folder / "stack", report=_say)
    try:
        began = _clock.monotonic()
        await asyncio.to_thread(stack.start)
        if arguments.profile and name not in ("e2e", "growth"):
            await count_statements(stack)
        launcher = Launcher(stack, folder / "services")
        producer = KafkaProducer(stack.kafka, client_id="bench")
        async with Watch.on(stack.kafka) as watch:
            try:
                return await STAGES[name](
                    Bench(
                        launcher,
                        watch,
                        producer,
                        arguments.rounds,
                        arguments.items,
                        _say,
                        began,
                        arguments.flame_graphs,
                        arguments.grown,
                        arguments.stored,
                        arguments.minutes,
                    )
                )
            finally:
                await producer.stop()
    finally:
        await asyncio.to_thread(stack.stop)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
