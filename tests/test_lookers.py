"""The bridge's detectors: full, slow, hung up on; and the shelf of masked pictures."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sfumato.agents.lookers import Lookers
from sfumato.agents.settings import Settings
from sfumato.agents.shelf import Shelf


class Caller:
    """A request whose body was read, and the end of its connection."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.request = Request({"type": "http", "headers": []}, self._receive)

    async def _receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def made(tmp_path: Path, **options: float) -> Lookers:
    return Lookers(Settings(state_dir=tmp_path, image_workers=1, **options))  # type: ignore[arg-type]


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def run(scenario) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_a_full_queue_is_answered_at_once_with_when_to_come_again(tmp_path):
    async def scenario() -> None:
        lookers, go = made(tmp_path, image_queue=1), threading.Event()
        busy = [asyncio.ensure_future(lookers.run(Caller().request, go.wait)) for _ in range(2)]
        await until(lambda: lookers._taken == 2)
        with pytest.raises(HTTPException) as refused:
            await lookers.run(Caller().request, go.wait)
        assert refused.value.status_code == 503
        assert refused.value.headers == {"Retry-After": "1"}
        go.set()
        assert await asyncio.gather(*busy) == [True, True]
        await until(lambda: lookers._taken == 0)
        assert await lookers.run(Caller().request, lambda: 5) == 5
        lookers.close()

    run(scenario())


def test_who_hangs_up_gives_the_place_free_before_the_work_has_begun(tmp_path):
    async def scenario() -> None:
        lookers, go, begun = made(tmp_path, image_queue=1), threading.Event(), []
        first = asyncio.ensure_future(lookers.run(Caller().request, go.wait))
        leaving = Caller()
        second = asyncio.ensure_future(lookers.run(leaving.request, lambda: begun.append(2)))
        await until(lambda: lookers._taken == 2)
        leaving.gone.set()
        with pytest.raises(HTTPException):
            await second
        assert lookers._taken == 1
        third = asyncio.ensure_future(lookers.run(Caller().request, lambda: begun.append(3)))
        await until(lambda: lookers._taken == 2)
        go.set()
        await asyncio.gather(first, third)
        assert begun == [3]
        lookers.close()

    run(scenario())


def test_work_that_is_late_is_answered_504_and_makes_the_bridge_unhealthy_until_it_ends(tmp_path):
    async def scenario() -> None:
        lookers, go = made(tmp_path, image_queue=5, detector_timeout=0.05), threading.Event()
        with pytest.raises(HTTPException) as late:
            await lookers.run(Caller().request, go.wait)
        assert late.value.status_code == 504
        assert lookers.stuck
        with pytest.raises(HTTPException) as waited:
            await lookers.run(Caller().request, go.wait)
        assert waited.value.status_code == 503
        go.set()
        await until(lambda: not lookers.stuck and lookers._taken == 0)
        lookers.close()

    run(scenario())


def test_what_fails_gives_its_place_free(tmp_path):
    async def scenario() -> None:
        lookers = made(tmp_path, image_queue=0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await lookers.run(Caller().request, lambda: 1 // 0)
            await until(lambda: lookers._taken == 0)
        lookers.close()

    run(scenario())


def test_the_shelf_gives_to_the_owner_alone_and_forgets():
    shelf = Shelf(60, 10)
    first = shelf.put("a", b"12345678", "image/png")
    assert shelf.get("a", first).payload == b"12345678"
    assert shelf.get("b", first) is None
    second = shelf.put("b", b"1234", "image/png")  # too much together: the oldest goes
    assert shelf.get("a", first) is None
    assert shelf.get("b", second) is not None
    ended = Shelf(-1, 100)
    assert ended.get("a", ended.put("a", b"1", "image/png")) is None
