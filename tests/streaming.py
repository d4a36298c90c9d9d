"""What stands on both sides of a Faust agent's worker in tests: the stream before it, the producer behind it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace


class Stream:
    """Faust's stream as the worker sees it: batches of events, acknowledged one by one."""

    def __init__(self, *batches: int, of) -> None:  # type: ignore[no-untyped-def]
        self._event = of
        self.acknowledged: list[int] = []
        self.done = asyncio.Event()
        self.committed = False
        self.app = SimpleNamespace(consumer=SimpleNamespace(commit=self._commit))
        self._batches = batches

    async def noack_take(self, size: int, within: float):  # type: ignore[no-untyped-def]
        offset = 0
        for count in self._batches:
            yield [self._event(number) for number in range(offset, offset + count)]
            offset += count
        await self.done.wait()

    async def ack(self, acknowledged) -> None:  # type: ignore[no-untyped-def]
        self.acknowledged.append(acknowledged.message.offset)

    async def _commit(self) -> None:
        self.committed = True


class Broker:
    """A producer whose acknowledgements the test gives."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, object]] = []
        self.waiting: list[object] = []
        self.full_for = 0

    def try_send(self, topic, message, on_delivery) -> bool:  # type: ignore[no-untyped-def]
        if self.full_for:
            self.full_for -= 1
            return False
        self.sent.append((topic, message))
        self.waiting.append(on_delivery)
        return True

    def acknowledge(self, count: int, error=None) -> None:  # type: ignore[no-untyped-def]
        for _ in range(count):
            self.waiting.pop(0)(error)


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
