"""The live account, as metrics: what became of each camera's frames, and how long an event waits for its seal."""

from __future__ import annotations

from collections import Counter

from sfumato.agents import metrics
from sfumato.agents.ledger.account import Log
from sfumato.agents.ledger.book import Book
from sfumato.schemas.outcome import Outcome


class Gauges:
    """Shows the book's logs; :meth:`clear` takes back what another process may show from now on."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def show(self, now: float) -> None:
        """``now``: monotonic, in seconds."""
        for found in self._book.logs.values():
            waiting = found.tally.first_offset >= 0 and found.tally.opened_at is not None
            age = now - (found.tally.opened_at or now) if waiting else 0.0
            metrics.LEDGER_UNSEALED.labels(found.name).set(age)
            if not found.epochs:
                continue
            metrics.LEDGER_MISSING.labels(found.name)  # a rate needs the zero before the first count
            for state, count in balance(found).items():
                metrics.LEDGER_FRAMES.labels(found.name, state).set(count)

    def clear(self) -> None:
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
