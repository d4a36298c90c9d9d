"""Shredding of keys by age: the ingestor does it while it runs, and ``sfumato keys shred --expired`` from cron."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sfumato.agents.footage.stores import KeyStore, KeyStoreError, named

log = logging.getLogger(__name__)

INTERVAL = 300.0
"""Seconds between two looks for keys that have expired."""


def shred_expired(store: KeyStore, hours: float, now: datetime) -> Iterator[tuple[str, datetime]]:
    """Shred what all cameras of the store captured ``hours`` ago or earlier; yields what was shredded."""
    for camera in store.cameras():
        for hour in store.shred(camera, now - timedelta(hours=hours)):
            yield camera, hour


class Shredder(threading.Thread):
    """Shreds until the ingestor stops; what fails is said and tried again."""

    def __init__(self, store: KeyStore, hours: float, stopping: threading.Event) -> None:
        super().__init__(name="shredder", daemon=True)
        self._store = store
        self._hours = hours
        self._stopping = stopping

    def run(self) -> None:
        while True:
            try:
                for camera, hour in shred_expired(self._store, self._hours, datetime.now(UTC)):
                    log.info("the key of %s, %s, was shredded: %g hours have passed", camera, named(hour), self._hours)
            except KeyStoreError as error:
                log.critical("keys that have expired may remain: %s", error)
            if self._stopping.wait(INTERVAL):
                return
