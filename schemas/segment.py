"""A sealed segment of a camera's log: what its audit events come to, and the head of the log with them.

It is the fourth line of a checkpoint's text, as compact JSON, so that the checkpoint's signature is its signature
too. A leaf of the log is the value of a message of ``audit``, byte for byte; leaves lie in the order of their offsets,
without duplicates, so that everybody who reads the topic builds the same tree. Its JSON Schema is published as
``docs/segment.schema.json``.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfumato.schemas.audit import Sha256, summary
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.outcome import Outcome, Reason

SEGMENT_TYPE = "sfumato.segment.v1"
UNREADABLE = "_unreadable-"
"""Before a partition's number: the log of its messages that name no frame. No camera can be called so."""
DISCLOSURES_LOG = "_disclosures"
"""The log of the topic ``disclosures``."""
LOG_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")
MOST_CONFLICTS = 100
"""Conflicts that a segment names; the rest are only counted."""


def has_frames(log: str) -> bool:
    """Whether the log is a camera's."""
    return not log.startswith("_")


Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(_Record):
    """Sequences ``first`` to ``last`` of an epoch."""

    epoch: Count
    first: Count
    last: Count

    @model_validator(mode="after")
    def _ascending(self) -> Run:
        if self.first > self.last:
            raise ValueError("first: comes after last")
        return self


class Conflict(_Record):
    """A frame whose first audit event, which counts, says something else than a later one."""

    epoch: Count
    sequence: Count
    first: Outcome
    later: Outcome


class Source(_Record):
    """Where in Kafka the segment's audit events lie: offsets, both inclusive."""

    topic: str
    partition: Count
    first_offset: Count
    last_offset: Count


class Segment(_Record):
    """``first``: the index of its first leaf; ``size``: how many leaves the log has with it. ``root``: the head of the
    tree of these; ``previous_root``: of the first ``first`` leaves. ``frontier``: the hashes that cover those, so that
    a segment can be checked without the ones before it; ``subtrees``: those that cover its own leaves (RFC 9162;
    ``agents/ledger/tree.py``). ``runs``: the sequences of its leaves, in order per epoch.

    What follows was found since the segment before. ``missing``: sequences without an audit event that are overdue;
    ``found_late``: leaves that such a segment had called missing. ``duplicates`` and ``conflicting`` count events that
    are not leaves; ``reordered``: leaves whose sequence is lower than one before them; ``invalid``: leaves without a
    known outcome and reason, or of an unreadable message. ``ingest_dropped``: frames that never got a sequence, as the
    ingestor reported them, by reason. ``policies``: SHA-256 of the policies in force, by name@version, as they were set
    (topic ``policies``). ``detectors``: SHA-256 of their weights, by name."""

    log: Annotated[str, Field(pattern=f"^{LOG_NAME.pattern}$")]
    first: Count
    size: Count
    root: Sha256
    previous_root: Sha256
    frontier: tuple[Sha256, ...] = ()
    subtrees: tuple[Sha256, ...]
    sealed_at: datetime
    source: Source
    outcomes: dict[Outcome, Count]
    reasons: dict[Reason, Count]
    runs: tuple[Run, ...]
    missing: tuple[Run, ...] = ()
    found_late: Count = 0
    duplicates: Count = 0
    conflicting: Count = 0
    conflicts: tuple[Conflict, ...] = ()
    reordered: Count = 0
    invalid: Count = 0
    ingest_dropped: dict[Reason, Count] = Field(default_factory=dict)
    policies: dict[str, Sha256] = Field(default_factory=dict)
    detectors: dict[str, tuple[Sha256, ...]] = Field(default_factory=dict)

    @classmethod
    def parse(cls, line: str) -> Segment:
        """Read a checkpoint's fourth line; :class:`EnvelopeError` where it breaks the contract."""
        try:
            return cls.model_validate_json(line)
        except ValidationError as error:
            raise EnvelopeError("segment", summary(error)) from None
