"""What the ingestors say of their epochs: the topic followed on a thread, handed over when asked."""

from __future__ import annotations

import logging
from datetime import datetime
from queue import SimpleQueue

from sfumato.agents.follow import Follower, drain
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.head import Report
from sfumato.schemas.topics import EPOCHS

log = logging.getLogger(__name__)


class ReportStore:
    """Thread-safe. ``since``: from when on records are read; None: from the topic's beginning."""

    def __init__(self, settings: Settings, since: datetime | None) -> None:
        self._came: SimpleQueue[tuple[str, Report]] = SimpleQueue()
        self._follower = Follower(settings, EPOCHS, self.take, since=since)

    def start(self, timeout: float = 120.0) -> None:
        """Raises TimeoutError where the topic cannot be read to its end in time, in seconds."""
        self._follower.load(timeout)

    def close(self) -> None:
        self._follower.close()

    def came(self) -> list[tuple[str, Report]]:
        """By camera, what was reported since this was asked last."""
        return drain(self._came)

    def take(self, key: bytes | None, value: bytes | None, _: datetime) -> None:
        """One message of ``epochs``."""
        try:
            record = EpochRecord.from_message(value)
            report = Report(
                epoch=record.epoch,
                last_sent=-1 if record.last_sequence is None else max(-1, record.last_sequence),
                dropped=record.dropped,
                ended=record.state is EpochState.ENDED,
            )
        except (EnvelopeError, ValueError) as error:
            log.error("a message of epochs breaks its contract: %s", error)
            return
        self._came.put((record.camera, report))
