"""Shredding of keys by age: the ingestor does it while it runs, and ``sfumato keys shred --expired`` from cron."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sfumato.agents.footage.stores import KeyStore, KeyStoreError, among, ended, named
from sfumato.agents.settings import Settings
from sfumato.schemas.fault import Fault

if TYPE_CHECKING:
    from sfumato.agents.subjects.holds import Hold, Holds

log = logging.getLogger(__name__)

INTERVAL = 300.0
"""Seconds between two looks for keys that have expired."""


def shred_expired(
    store: KeyStore, hours: float, now: datetime, held: Iterable[Hold] = ()
) -> Iterator[tuple[str, datetime]]:
    """Shred what all cameras of the store captured ``hours`` ago or earlier, but not what is held; yields what was
    shredded. KeyStoreError at the end, where one camera's could not be."""
    kept = {(hold.camera, hold.hour) for hold in held}
    failures = []
    for camera in store.cameras():
        keep = {hour for name, hour in kept if name == camera}
        try:
            shredded: Collection[datetime] = store.shred(camera, now - timedelta(hours=hours), keep)
        except KeyStoreError as error:
            failures.append(error)
            shredded = error.shredded
        for hour in shredded:
            yield camera, hour
    if failures:
        raise KeyStoreError(f"{failures[0]}{among(failures)}")


def due(store: KeyStore, camera: str, before: datetime, held: Iterable[Hold]) -> list[Hold]:
    """Of what is held, that which would be shredded; all of it that may be, where the store cannot say."""
    wanted = [hold for hold in held if hold.camera == camera and ended(hold.hour, before)]
    if not wanted:
        return []
    try:
        living = {found.hour for found in store.hours(camera) if found.shredded_at is None}
    except KeyStoreError:
        return wanted
    return [hold for hold in wanted if hold.hour in living]


class Shredder(threading.Thread):
    """Shreds until the ingestor stops; what fails is said and tried again."""

    def __init__(self, store: KeyStore, settings: Settings, stopping: threading.Event) -> None:
        super().__init__(name="shredder", daemon=True)
        self._store = store
        self._settings = settings
        self._holds: Holds | None = None
        self._stopping = stopping

    def run(self) -> None:
        while True:
            try:
                self._shred(datetime.now(UTC))
            except Exception as error:  # noqa: BLE001 - nobody would notice that the thread has ended
                why = error if isinstance(error, Fault) else type(error).__name__
                log.critical("keys that have expired may remain: %s", why)
            if self._stopping.wait(INTERVAL):
                return

    def _shred(self, now: datetime) -> None:
        held, hours = self._held(), self._settings.keys_hours
        for camera, hour in shred_expired(self._store, hours, now, held):
            log.info("the key of %s, %s, was shredded: %g hours have passed", camera, named(hour), hours)
        before = now - timedelta(hours=hours)
        for camera in {hold.camera for hold in held}:
            for hold in due(self._store, camera, before, held):
                log.warning("a key that has expired is kept: %s", hold)

    def _held(self) -> list[Hold]:
        if self._holds is None:
            if not self._settings.has_database:
                return []
            from sfumato.agents.subjects.holds import Holds  # with a database, which most ingestors do without

            self._holds = Holds(self._settings)
        return self._holds.look()
