"""What holds a piece of work while it is done: its lease, renewed beside the work, and how far the work is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from sfumato.agents.jobs.claims import Claim, Claims, Errand, LostError

log = logging.getLogger(__name__)

RENEWED = 0.4
"""Seconds between two renewals of a lease, which is how soon a cancelled job is noticed."""


class Hold:
    """Keeps a lease while work goes on in another thread, and tells that thread when it is lost. A context manager."""

    def __init__(
        self,
        claims: Claims,
        claim: Claim | Errand,
        lease: float,
        stopping: threading.Event,
        goes_on: Callable[[], None] = lambda: None,
    ) -> None:
        """``lease``: its length in seconds. ``goes_on``: called as long as work does."""
        self._claims = claims
        self._claim = claim
        self._lease = lease
        self._stopping = stopping
        self._goes_on = goes_on
        self._over = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self.frames = 0
        """Pictures done so far."""
        self.broken: BaseException | None = None
        """Why the file could not be read to its end, if it could not: nothing may be made of what was read."""

    def __enter__(self) -> Hold:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """Raises :class:`LostError` where the work should not go on."""
        self._goes_on()
        if self.broken is not None:
            raise self.broken
        if self._lost.is_set() or self._stopping.is_set():
            raise LostError("the lease is lost, or the worker ends")

    def broke(self, error: BaseException) -> None:
        """Reading failed; from now on :meth:`check` says so."""
        self.broken = self.broken or error

    def _keep(self) -> None:
        renewed = time.monotonic()
        while not self._over.wait(RENEWED):
            try:
                self._claims.renew(self._claim, self.frames)
                renewed = time.monotonic()
            except LostError:
                return self._lost.set()
            except SQLAlchemyError as error:
                log.warning("the lease is not renewed: %s", type(error).__name__)
                if time.monotonic() - renewed > self._lease:
                    return self._lost.set()


class Effort:
    """Turns pictures gone through, in both passes, into pictures done."""

    def __init__(self, hold: Hold, effort: int, frames: int) -> None:
        self._hold = hold
        self._effort = max(1, effort)
        self._frames = frames
        self._ticks = 0

    def tick(self) -> None:
        self._hold.check()
        self._ticks += 1
        self._hold.frames = min(self._frames, self._ticks * self._frames // self._effort)
