"""The detectors of the bridge: loaded once, when first asked for, and used by a bounded number of threads.

Threads decode, mask and encode side by side. Detection is in turn, with all of ``SFUMATO_DETECTOR_THREADS`` for one
picture: batches do not pay (``docs/decisions/0006-openvino.md``), and one caller alone has the shortest wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

from sfumato.agents.rules import MaskError, needed
from sfumato.agents.settings import Settings
from sfumato.models import detectors
from sfumato.models.detectors import Detector, Image, Smallest
from sfumato.models.ensemble import Ensemble
from sfumato.models.recogniser import Recogniser
from sfumato.schemas.detection import Detection
from sfumato.schemas.policy import Policy

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_AFTER = "1"
"""Seconds after which a caller whom a full queue sent away may come again."""


class InTurn(Ensemble):
    """An ensemble whose detectors other threads use, too; one picture at a time."""

    def __init__(self, detectors: Sequence[Detector], turn: Lock) -> None:
        super().__init__(detectors)
        self._turn = turn

    def _look(self, detector: Detector, pictures: Sequence[Image], smallest: Smallest) -> list[tuple[Detection, ...]]:
        with self._turn:
            return super()._look(detector, pictures, smallest)


class Lookers:
    """Thread-safe; :meth:`run` wants an event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.image_workers, "looker")
        self._places = settings.image_workers + settings.image_queue
        self._counting = Lock()
        self._taken = 0
        self._late = 0
        self._made: dict[str, Detector] = {}
        self._recogniser: Recogniser | None = None
        self._making = Lock()
        self.turn = Lock()
        """Held while a detector computes."""

    @property
    def stuck(self) -> bool:
        """Whether every thread has been busy with one picture for longer than SFUMATO_DETECTOR_TIMEOUT."""
        return self._late >= self._settings.image_workers

    def ensemble(self, policy: Policy) -> Ensemble:
        """The detectors that the policy needs. DetectorError or WeightError says what cannot be loaded, MaskError what
        none of them looks for."""
        ensemble = InTurn([self.detector(name) for name in needed(self._settings, policy)], self.turn)
        if missing := ensemble.missing(policy):
            raise MaskError(f"{missing}; targets names what to look for, SFUMATO_DETECTORS what the bridge loads")
        return ensemble

    def detector(self, name: str) -> Detector:
        """By its name; to be used while :attr:`turn` is held. Raises as :meth:`ensemble`."""
        with self._making:
            if name not in self._made:
                self._made[name] = detectors.make(name, self._settings.detector_options())
            return self._made[name]

    def recogniser(self) -> Recogniser:
        """As :meth:`detector`; RecogniserError without the extra ``attack``."""
        with self._making:
            if self._recogniser is None:
                self._recogniser = Recogniser(self._settings.weights_dir)
            return self._recogniser

    async def run(self, request: Request, work: Callable[[], T]) -> T:
        """What ``work`` returns, done by one of the threads.

        503 where no place is free, and where none of the threads came to it within SFUMATO_DETECTOR_TIMEOUT; 504
        where one did and has not finished by then: nothing of the picture is shown. A caller who hangs up gives the
        place free, unless the work has begun.
        """
        with self._counting:
            if self._taken >= self._places:
                raise HTTPException(503, "all places are taken; come again", {"Retry-After": RETRY_AFTER})
            self._taken += 1
        task = self._pool.submit(work)
        task.add_done_callback(self._free)
        done = asyncio.wrap_future(task)
        gone = asyncio.ensure_future(_hung_up(request))
        either: set[asyncio.Future[Any]] = {done, gone}
        try:
            await asyncio.wait(either, timeout=self._settings.detector_timeout, return_when="FIRST_COMPLETED")
            if done.done():
                return done.result()
            if task.cancel():
                raise HTTPException(503, "too many pictures wait; come again", {"Retry-After": RETRY_AFTER})
            if gone.done():
                raise HTTPException(408, "the caller hung up")
            self._mark_late(task)
            limit = self._settings.detector_timeout
            raise HTTPException(504, f"not done within {limit:g} s; send a smaller picture, or come again")
        finally:
            gone.cancel()
            task.cancel()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _free(self, _: Future[Any]) -> None:
        with self._counting:
            self._taken -= 1

    def _mark_late(self, task: Future[Any]) -> None:
        log.error("a picture takes longer than SFUMATO_DETECTOR_TIMEOUT, %s s", self._settings.detector_timeout)
        with self._counting:
            self._late += 1
        task.add_done_callback(self._in_time)

    def _in_time(self, _: Future[Any]) -> None:
        with self._counting:
            self._late -= 1


async def _hung_up(request: Request) -> None:
    """Until the caller closes the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
