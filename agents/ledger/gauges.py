"""The live account, as metrics: what became of each camera's frames, and how long an event waits for its seal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from sfumato.agents import metrics
from sfumato.agents.ledger.account import Log
from sfumato.agents.ledger.book import Book
from sfumato.agents.ledger.entries import Place
from sfumato.schemas.outcome import Outcome


class Unread(NamedTuple):
    """How far a partition is from being read. ``since``: when the last message that was read was written, Unix seconds:
    what waits is younger."""

    messages: int
    since: float


class Gauges:
    """Shows the book's logs; :meth:`clear` takes back what another process may show from now on."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def show(self, now: float, wall: float, unread: Mapping[Place, Unread]) -> None:
        """``now``: monotonic, ``wall``: Unix time, both in seconds."""
        for found in self._book.logs.values():
            self._show_behind(found, wall, unread.get(found.place, Unread(0, 0.0)))
            waiting = found.tally.first_offset >= 0 and found.tally.opened_at is not None
            age = now - (found.tally.opened_at or now) if waiting else 0.0
            metrics.LEDGER_UNSEALED.labels(found.name).set(age)
            if not found.epochs:
                continue
            metrics.LEDGER_MISSING.labels(found.name)  # a rate needs the zero before the first count
            for state, count in balance(found).items():
                metrics.LEDGER_FRAMES.labels(found.name, state).set(count)

    def _show_behind(self, found: Log, wall: float, unread: Unread) -> None:
        """Whose events wait in a partition is known once they are read, so all of them count for each of its logs."""
        tally = found.tally
        oldest = [unread.since] if unread.messages else []
        taken = 0
        if tally.first_offset >= 0:
            taken = len(tally.hashes) + tally.duplicates
            oldest.append(tally.written_at)
        seconds = max(0.0, wall - min(oldest)) if oldest else 0.0
        metrics.LEDGER_BEHIND_SECONDS.labels(found.name).set(seconds)
        metrics.LEDGER_BEHIND.labels(found.name).set(taken + unread.messages)

    def clear(self) -> None:
        metrics.LEDGER_BEHIND_SECONDS.clear()
        metrics.LEDGER_BEHIND.clear()
        metrics.LEDGER_UNSEALED.clear()
        metrics.LEDGER_FRAMES.clear()


def balance(found: Log) -> dict[str, int]:
    """Frames of a camera's remembered epochs: ingested = masked + fully_masked + dropped + unaccounted. Dropped: also
    by the ingestor, before a frame has a sequence. Unaccounted: what is on its way, missing, or has an invalid
    event."""
    outcomes: Counter[Outcome] = Counter()
    ingested = dropped = 0
    for number, epoch in found.epochs.items():
        report = found.reports.get(number)
        ingested += max(epoch.audited.last, report.last_sent if report else -1) + 1
        outcomes.update(epoch.outcomes)
    for report in found.reports.values():
        dropped += sum(report.dropped.values())
        if report.epoch not in found.epochs:
            ingested += report.last_sent + 1
    ingested, dropped = ingested + dropped, dropped + outcomes[Outcome.DROPPED]
    masked, fully_masked = outcomes[Outcome.MASKED], outcomes[Outcome.FULLY_MASKED]
    return {
        "ingested": ingested,
        "masked": masked,
        "fully_masked": fully_masked,
        "dropped": dropped,
        "unaccounted": ingested - masked - fully_masked - dropped,
    }
