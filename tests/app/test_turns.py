from __future__ import annotations

import asyncio
import threading

import pytest

from amodal.app.turns import BusyError, Turns


async def started(turns: Turns, visitor: str, work: object) -> asyncio.Task[object]:
    task = asyncio.create_task(turns.run(visitor, work))
    await asyncio.sleep(0)
    return task


async def begun(turns: Turns, visitor: str, work: object) -> asyncio.Task[object]:
    """The first job, which is in the worker's hands."""
    task = await started(turns, visitor, work)
    while turns.waiting:
        await asyncio.sleep(0)
    return task


def test_visitors_take_turns() -> None:
    """One visitor with three jobs does not keep another with one waiting for all of them."""
    done: list[str] = []
    gate = threading.Event()

    async def main() -> None:
        turns = Turns()
        first = await started(turns, "x", gate.wait)
        jobs = [await started(turns, "greedy", lambda i=i: done.append(f"greedy{i}")) for i in range(3)]
        jobs.append(await started(turns, "modest", lambda: done.append("modest")))
        gate.set()
        await asyncio.gather(first, *jobs)
        turns.close()

    asyncio.run(main())
    assert done == ["greedy0", "modest", "greedy1", "greedy2"]


def test_results_and_errors_reach_their_visitor() -> None:
    async def main() -> None:
        turns = Turns()
        assert await turns.run("a", lambda: 6 * 7) == 42
        with pytest.raises(ZeroDivisionError):
            await turns.run("a", lambda: 1 / 0)
        assert await turns.run("b", lambda: "still works") == "still works"
        assert turns.waiting == 0 and not turns.lines
        turns.close()

    asyncio.run(main())


def test_a_full_queue_says_so() -> None:
    gate = threading.Event()

    async def main() -> None:
        turns = Turns(max_waiting=2, max_own=1)
        running = await begun(turns, "a", gate.wait)
        waiting = [await started(turns, name, lambda: None) for name in ("b", "c")]
        with pytest.raises(BusyError, match="expected a free place"):
            await turns.run("d", lambda: None)
        with pytest.raises(BusyError, match="at most 1 requests of one visitor"):
            await turns.run("b", lambda: None)
        gate.set()
        await asyncio.gather(running, *waiting)
        turns.close()

    asyncio.run(main())


def test_a_turn_that_does_not_come_in_time_is_given_up() -> None:
    gate = threading.Event()

    async def main() -> None:
        turns = Turns(max_seconds=0.2)
        running = await begun(turns, "a", gate.wait)
        with pytest.raises(BusyError, match="expected a turn within 0.2 seconds"):
            await turns.run("b", lambda: pytest.fail("it was given up"))
        gate.set()
        await running
        turns.close()

    asyncio.run(main())


def test_who_goes_away_is_not_served() -> None:
    done = []
    gate = threading.Event()

    async def main() -> None:
        turns = Turns()
        running = await begun(turns, "a", gate.wait)
        gone = await started(turns, "b", lambda: done.append("served"))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert turns.waiting == 0
        gate.set()
        await running
        turns.close()

    asyncio.run(main())
    assert not done
