"""How an agent's process ends: with which status, and never by an exception that Faust would see."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from sfumato.agents import exits
from sfumato.agents.exits import EXIT_CONFIGURATION, EXIT_RESTART
from tests.conftest import Left


class Unmended(Exception):
    pass


@pytest.mark.parametrize("stage", [exits.starting, exits.working])
@pytest.mark.parametrize(
    ("error", "status"),
    [(Unmended("what a person mends"), EXIT_CONFIGURATION), (OSError("what passes"), EXIT_RESTART)],
)
def test_the_status_says_whether_a_restart_may_help(left, stage, error, status):
    with suppress(Left), stage(Unmended):
        raise error
    assert [given for _, given in left] == [status]
    assert str(error) in left[0][0]


def test_what_is_cancelled_ends_in_good_order_or_after_a_while(left, monkeypatch):
    ending: list[float] = []
    monkeypatch.setattr(exits, "end_within", ending.append)
    with pytest.raises(asyncio.CancelledError), exits.working():
        raise asyncio.CancelledError
    assert left == []
    assert ending == [exits.SHUTDOWN_TIMEOUT]


def test_a_task_that_fails_ends_the_process_and_one_that_is_cancelled_does_not(left):
    async def scenario(fails: bool) -> None:
        task = asyncio.create_task(fail() if fails else asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        with suppress(Left):
            exits.restart_on_failure(task)

    async def fail() -> None:
        raise OSError("x" * 1000)

    asyncio.run(scenario(fails=False))
    assert left == []
    asyncio.run(scenario(fails=True))
    assert [(why[:10], len(why), status) for why, status in left] == [("OSError('x", exits.TOLD, EXIT_RESTART)]
