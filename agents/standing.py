"""The policies and suspensions as the bridge knows them: read at its start, tried again until it works."""

from __future__ import annotations

import logging
import threading
from typing import TypeVar

from starlette.exceptions import HTTPException

from sfumato.agents.policies import PolicyStore
from sfumato.agents.settings import Settings
from sfumato.agents.suspensions import SuspensionStore
from sfumato.schemas.floor import Floor

log = logging.getLogger(__name__)

S = TypeVar("S", PolicyStore, SuspensionStore)

ATTEMPT = 2.0
"""Seconds for which one attempt to read a topic may take."""


class Standing(threading.Thread):
    """Thread-safe. ``floor``: what no policy may go below. ``changing``: held by whoever changes a policy."""

    def __init__(self, settings: Settings, floor: Floor) -> None:
        super().__init__(name="standing", daemon=True)
        self.floor = floor
        self.changing = threading.Lock()
        self.settings = settings
        self._policies: PolicyStore | None = None
        self._suspensions: SuspensionStore | None = None
        self._closing = threading.Event()

    @property
    def policies(self) -> PolicyStore:
        """HTTPException 503 while they are not read yet."""
        if self._policies is None:
            raise _not_yet()
        return self._policies

    @property
    def suspensions(self) -> SuspensionStore:
        """HTTPException 503 while they are not read yet."""
        if self._suspensions is None:
            raise _not_yet()
        return self._suspensions

    @property
    def ready(self) -> bool:
        return self._policies is not None and self._suspensions is not None

    def run(self) -> None:
        while not self._closing.is_set() and not self.ready:
            try:
                self._policies = self._policies or self._loaded(
                    PolicyStore(self.settings, self.floor, keep_history=True)
                )
                self._suspensions = self._suspensions or self._loaded(SuspensionStore(self.settings))
            except TimeoutError as error:
                log.warning("policies and suspensions are not known yet: %s", error)
                self._closing.wait(ATTEMPT)

    def close(self) -> None:
        self._closing.set()
        if self.is_alive():
            self.join()
        for store in (self._policies, self._suspensions):
            if store is not None:
                store.close()

    def _loaded(self, store: S) -> S:
        try:
            store.start(ATTEMPT)
        except TimeoutError:
            store.close()
            raise
        return store


def _not_yet() -> HTTPException:
    return HTTPException(503, "the policies are not read yet: the broker does not answer", {"Retry-After": "2"})
