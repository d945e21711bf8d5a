"""A task of a service that ends as cancelled, although nobody has cancelled it, ends the service with an error."""

import asyncio

import pytest

from shared.runtime.tasks import CancelledInsideError, run_all


async def cancelled_inside() -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def test_a_task_that_is_cancelled_inside_fails_and_cancels_the_others() -> None:
    ended: list[bool] = []

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(ExceptionGroup) as failed:
        await asyncio.wait_for(run_all((other(), cancelled_inside())), 5)
    assert [type(error) for error in failed.value.exceptions] == [CancelledInsideError]
    assert ended == [True]


async def test_tasks_that_are_cancelled_by_their_caller_are_cancelled() -> None:
    started = asyncio.Event()

    async def run() -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(run_all((run(), run())))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_first_error_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("first")

    with pytest.raises(ExceptionGroup) as failed:
        await run_all((fail(), asyncio.Event().wait()))  # type: ignore[arg-type]  # its result is not used
    assert [str(error) for error in failed.value.exceptions] == ["first"]
