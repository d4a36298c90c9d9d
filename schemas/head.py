"""How far a log is sealed, and what has to be remembered of it: the state from which a ledger goes on.

Written before the checkpoint itself is published, so that a ledger that was killed in between finds and publishes it.
On the topic a signature lies before the JSON (:mod:`sfumato.agents.ledger.stamp`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfumato.schemas.audit import Sha256, summary
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.fault import Fault
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.segment import LOG_NAME, Conflict, Run

Count = Annotated[int, Field(ge=0)]
Pair = tuple[Count, Count]


class HeadError(Fault, ValueError):
    """A log's head cannot be believed, or is gone; the text names the log, says why and where it says what to do."""

    def __init__(self, log: str, why: str) -> None:
        super().__init__(f"ledger.heads: log {log}: {why}; docs/ledger.md says what to do")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KnownEpoch(_Record):
    """``runs``: the sequences that have a leaf, first and last of each run; ``missing``: those that were called so;
    ``outcomes``: leaves by outcome."""

    epoch: Count
    runs: tuple[Pair, ...]
    missing: tuple[Pair, ...] = ()
    outcomes: dict[Outcome, Count] = Field(default_factory=dict)


class Report(_Record):
    """What the ingestor said last of an epoch; ``last_sent`` -1: nothing was sent."""

    epoch: Count
    last_sent: int = -1
    dropped: dict[Reason, Count] = Field(default_factory=dict)
    ended: bool = False


class Pending(_Record):
    """What the next segment has to say besides its leaves."""

    missing: tuple[Run, ...] = ()
    duplicates: Count = 0
    conflicting: Count = 0
    conflicts: tuple[Conflict, ...] = ()
    ingest_dropped: dict[Reason, Count] = Field(default_factory=dict)


class Head(_Record):
    """``note``: the newest checkpoint; empty before the first. ``size`` and ``frontier``: the log's leaves, and the
    hashes of the perfect subtrees that cover them. ``topic``, ``partition``: where its events lie; ``next_offset``:
    the first one that may not be in it.
    ``stopped``: why nothing is signed any more. ``epochs``: the one heard of last at the end. ``reports``: of the
    ingestor. ``recent``: outcomes of the newest leaves, as epoch, first sequence and a letter for each. ``ids``: of the
    newest leaves that are no frames, the newest at the end."""

    log: Annotated[str, Field(pattern=f"^{LOG_NAME.pattern}$")]
    origin: str
    at: datetime
    note: str = ""
    size: Count = 0
    frontier: tuple[Sha256, ...] = ()
    topic: str
    partition: Count
    next_offset: Count
    stopped: str = ""
    epochs: tuple[KnownEpoch, ...] = ()
    reports: tuple[Report, ...] = ()
    recent: tuple[tuple[Count, Count, str], ...] = ()
    ids: tuple[str, ...] = ()
    pending: Pending = Pending()

    def to_message(self) -> Message:
        """Not signed yet."""
        return Message(self.log.encode(), self.model_dump_json(exclude_defaults=True).encode(), [])

    @classmethod
    def from_message(cls, value: bytes | None) -> Head:
        """Read the JSON of a message of ``ledger.heads``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            return cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None


class Cover(_Record):
    """That every event of a partition below ``offset`` is in its log, once that has as many leaves as ``sizes`` says.
    So it stays true, whatever is written later; also where a ledger that was held up writes an older head over a
    newer one."""

    origin: str
    topic: str
    partition: Count
    offset: Count
    sizes: dict[str, Count]

    @property
    def key(self) -> bytes:
        """No log can be called so."""
        return f"@{self.topic}/{self.partition}".encode()

    def to_message(self) -> Message:
        """Not signed yet."""
        return Message(self.key, self.model_dump_json().encode(), [])

    @classmethod
    def from_message(cls, value: bytes | None) -> Cover:
        """Read the JSON of a message of ``ledger.heads`` whose key begins with @; :class:`EnvelopeError` where it
        breaks the contract."""
        try:
            return cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None
