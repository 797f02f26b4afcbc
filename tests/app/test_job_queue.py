from __future__ import annotations

import asyncio
import threading

import pytest

from amodal.app.job_queue import BusyError, JobQueue


async def submit(queue: JobQueue, visitor: str, work: object) -> asyncio.Task[object]:
    task = asyncio.create_task(queue.run(visitor, work))
    await asyncio.sleep(0)
    return task


async def submit_and_start(queue: JobQueue, visitor: str, work: object) -> asyncio.Task[object]:
    """Start a job and wait until the worker runs it."""
    task = await submit(queue, visitor, work)
    while queue.num_waiting:
        await asyncio.sleep(0)
    return task


def test_visitors_take_turns() -> None:
    """A visitor with one job does not wait for all three jobs of another visitor."""
    done: list[str] = []
    gate = threading.Event()

    async def main() -> None:
        queue = JobQueue()
        first = await submit(queue, "x", gate.wait)
        jobs = [await submit(queue, "greedy", lambda i=i: done.append(f"greedy{i}")) for i in range(3)]
        jobs.append(await submit(queue, "modest", lambda: done.append("modest")))
        gate.set()
        await asyncio.gather(first, *jobs)
        queue.close()

    asyncio.run(main())
    assert done == ["greedy0", "modest", "greedy1", "greedy2"]


def test_results_and_errors_reach_the_visitor() -> None:
    async def main() -> None:
        queue = JobQueue()
        assert await queue.run("a", lambda: 6 * 7) == 42
        with pytest.raises(ZeroDivisionError):
            await queue.run("a", lambda: 1 / 0)
        assert await queue.run("b", lambda: "still works") == "still works"
        assert queue.num_waiting == 0 and not queue.lines
        queue.close()

    asyncio.run(main())


def test_a_full_queue_raises_busy_error() -> None:
    gate = threading.Event()

    async def main() -> None:
        queue = JobQueue(max_waiting=2, max_per_visitor=1)
        running = await submit_and_start(queue, "a", gate.wait)
        waiting = [await submit(queue, name, lambda: None) for name in ("b", "c")]
        with pytest.raises(BusyError, match="expected a free place"):
            await queue.run("d", lambda: None)
        with pytest.raises(BusyError, match="at most 1 requests of one visitor"):
            await queue.run("b", lambda: None)
        gate.set()
        await asyncio.gather(running, *waiting)
        queue.close()

    asyncio.run(main())


def test_a_job_that_does_not_start_in_time_fails() -> None:
    gate = threading.Event()

    async def main() -> None:
        queue = JobQueue(max_seconds=0.2)
        running = await submit_and_start(queue, "a", gate.wait)
        with pytest.raises(BusyError, match="expected the job to start within 0.2 seconds"):
            await queue.run("b", lambda: pytest.fail("the job must not run"))
        gate.set()
        await running
        queue.close()

    asyncio.run(main())


def test_a_cancelled_job_does_not_run() -> None:
    done = []
    gate = threading.Event()

    async def main() -> None:
        queue = JobQueue()
        running = await submit_and_start(queue, "a", gate.wait)
        gone = await submit(queue, "b", lambda: done.append("served"))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert queue.num_waiting == 0
        gate.set()
        await running
        queue.close()

    asyncio.run(main())
    assert not done
