"""`python -m tests.chaos`: causes faults under load, checks every promise and prints a report; `--help` has the
options."""

import argparse
import asyncio
import contextlib
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from shared.runtime.user_errors import UserError
from tests.chaos import faults
from tests.chaos.report import Report
from tests.chaos.run import Run, new_seed

SHORT_SECONDS = 100.0
_SHORT_LOAD = 30.0
_PAUSE = 4.0
_WHERE = "Three Kafka brokers, PostgreSQL and all services run on this machine"


def main() -> None:
    arguments = _arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers are stopped on purpose
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="piepowder-chaos-"))
    print(f"{_WHERE}, with data in {folder}; seed {arguments.seed}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_run(arguments, folder))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("Interrupted; everything was stopped.", file=sys.stderr)
        sys.exit(130)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(report, flush=True)
    sys.exit(0 if report.passed else 1)


async def _run(arguments: argparse.Namespace, folder: Path) -> Report:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    run = Run(folder, seed=arguments.seed, rate=arguments.rate, say=lambda text: print(text, flush=True))
    if arguments.short:
        return await run.run(faults.short(), seconds=SHORT_SECONDS, at_least=_SHORT_LOAD)
    if arguments.play:
        return await run.run(arguments.play, seconds=arguments.minutes * 60, at_least=0.0)
    seconds = arguments.minutes * 60
    return await run.run(faults.draw(arguments.seed, arguments.only), seconds=seconds, at_least=seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make chaos",
        description=f"{_WHERE}; faults are caused under load, and every promise is checked.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes with faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=new_seed(), help="repeat the schedule and the load of this seed")
    parser.add_argument("--short", action="store_true", help="the most informative faults, in less than four minutes")
    parser.add_argument("--rate", type=float, default=40.0, help="arrivals a second (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="keep the journal, logs and data in this folder (default: removed at the end)"
    )
    parser.add_argument("--only", default="", help=f"only these faults, comma-separated: {', '.join(faults.kinds())}")
    parser.add_argument(
        "--play", default="", help='exactly these faults, in the printed form: "zombie of router 20 s; ..."'
    )
    arguments = parser.parse_args()
    arguments.only = [name.strip() for name in arguments.only.split(",") if name.strip()]
    if unknown := set(arguments.only) - set(faults.kinds()):
        parser.error(f"unknown fault: {', '.join(sorted(unknown))}; the faults are {', '.join(faults.kinds())}")
    arguments.play = [faults.parse(text.strip())._replace(pause=_PAUSE) for text in arguments.play.split(";") if text]
    return arguments


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
