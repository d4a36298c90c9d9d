"""The jobs' worker: what Kafka announced is acknowledged once nothing is left to do, and the database may be away."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

from sqlalchemy.exc import OperationalError

from sfumato.agents import archive, exits
from tests.streaming import Stream, until


class Scripted:
    """Its steps return, or raise, what the test says; then there is nothing to do."""

    def __init__(self, *steps: bool | Exception) -> None:
        self.steps = list(steps)
        self.stopping = threading.Event()

    def step(self) -> bool:
        step = self.steps.pop(0) if self.steps else False
        if isinstance(step, Exception):
            raise step
        return step


def event(offset: int) -> SimpleNamespace:
    return SimpleNamespace(message=SimpleNamespace(offset=offset))


def test_a_database_that_does_not_answer_is_asked_again_by_the_same_process(left, monkeypatch):
    monkeypatch.setattr(archive, "DATABASE_PAUSE", 0.0)
    archivist = Scripted(True, OperationalError("", {}, Exception()), OperationalError("", {}, Exception()), True)

    async def scenario() -> None:
        stream = Stream(3, of=event)
        running = asyncio.create_task(archive.Worker(archivist).run(stream))  # type: ignore[arg-type]
        await until(lambda: stream.acknowledged == [0, 1, 2])
        running.cancel()

    asyncio.run(scenario())
    assert archivist.steps == []
    assert left == []


def test_what_else_goes_wrong_ends_the_process_and_nothing_is_acknowledged(left):
    stream = Stream(3, of=event)

    async def scenario() -> None:
        running = asyncio.create_task(archive.Worker(Scripted(RuntimeError("odd"))).run(stream))  # type: ignore[arg-type]
        await until(lambda: left)
        running.cancel()

    asyncio.run(scenario())
    assert stream.acknowledged == []
    assert left == [("RuntimeError('odd')", exits.EXIT_RESTART)]
