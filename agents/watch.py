"""The watchdog: a worker that has work but commits nothing is ended, so that another process takes over.

Stuck consumers have been reported of Faust for years (faust-streaming issues 175, 523, 532, 596). The
watchdog asks the broker by a client of its own, so it trusts nothing of what it watches. It also
publishes the consumer lag.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from prometheus_client import Gauge

from sfumato.agents import metrics
from sfumato.agents.connection import client_config
from sfumato.agents.settings import Settings

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks."""


class Watchdog(threading.Thread):
    """Calls ``leave`` with the reason once no offset was committed for ``settings.stall_timeout`` despite lag."""

    def __init__(
        self,
        app: Any,
        settings: Settings,
        leave: Callable[[str], None],
        *,
        assigned: Gauge = metrics.ASSIGNED,
        lag: Gauge = metrics.LAG,
        progress: Callable[[], int] = lambda: 0,
    ) -> None:
        """``progress``: a number that rises while the worker gets on with what takes long; then nothing is stuck."""
        super().__init__(name="watchdog", daemon=True)
        self._app = app
        self._assigned, self._lag = assigned, lag
        self._leave = leave
        self._made = progress
        self._timeout = settings.stall_timeout
        self._stall = Stall(settings.stall_timeout)
        self._consumer = Consumer(
            {
                **client_config(settings),
                "group.id": settings.group_id,
                "enable.auto.commit": False,
            }
        )

    def run(self) -> None:
        while True:
            time.sleep(INTERVAL)
            try:
                committed, lag = self._progress()
            except KafkaException as error:
                log.warning("watchdog: %s", error.args[0].str())
                self._stall.reset()  # the broker is away: nobody can commit
                continue
            self._lag.set(lag)
            committed[-1] = self._made()
            if self._stall.seen(committed, lag, time.monotonic()):
                self._leave(f"{lag} frames wait but nothing was committed for {self._timeout:g} s")

    def _progress(self) -> tuple[dict[int, int], int]:
        """Committed offset by partition, and frames that wait, over the partitions assigned to this worker."""
        assigned = [TopicPartition(tp.topic, tp.partition) for tp in self._app.consumer.assignment()]
        self._assigned.set(len(assigned))
        committed, lag = {}, 0
        for tp in self._consumer.committed(assigned, timeout=10) if assigned else []:
            low, high = self._consumer.get_watermark_offsets(tp, timeout=10)
            committed[tp.partition] = max(tp.offset, low)
            lag += max(0, high - committed[tp.partition])
        return committed, lag


class Stall:
    """Tells no progress from no work. Times in seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.reset()

    def reset(self) -> None:
        self._last: tuple[dict[int, int], float] | None = None

    def seen(self, committed: dict[int, int], lag: int, now: float) -> bool:
        """Whether there has been lag but no progress for the timeout."""
        if lag == 0 or self._last is None or self._last[0] != committed:
            self._last = (committed, now)
            return False
        return now - self._last[1] >= self._timeout
