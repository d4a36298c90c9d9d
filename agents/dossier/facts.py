"""What a dossier is made of: facts of the running system, each with where it was read; or why it could not be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sfumato.agents.access.keys import Key
from sfumato.agents.dossier.topics import Standing
from sfumato.agents.policies import Register
from sfumato.schemas.drills import Drills
from sfumato.schemas.floor import Floor
from sfumato.schemas.suspension import Suspension
from sfumato.schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class Absent:
    """A part that is not there, or could not be read."""

    why: str


@dataclass(slots=True)
class Counts:
    """What became of a camera's frames. ``missing``: ingested, and without an audit event. ``invalid``: with one
    that names no known outcome."""

    outcomes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    duplicates: int = 0
    conflicting: int = 0
    invalid: int = 0

    @property
    def frames(self) -> int:
        return sum(self.outcomes.values()) + self.missing + self.invalid


@dataclass(frozen=True, slots=True)
class Frames:
    """The counts of all cameras, and ``source``: where they are from. ``flaws``: what is wrong with that source, each
    naming the record; flawed records are not counted. ``signed_by``: by which keys signatures were checked; empty: none
    were. ``weights``: SHA-256 of the weights that looked, by detector."""

    source: str
    cameras: Mapping[str, Counts]
    weights: Mapping[str, tuple[str, ...]]
    flaws: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    records: int = 0


@dataclass(frozen=True, slots=True)
class Finds:
    """What the second look found unmasked: how often, by camera and target."""

    counts: Mapping[tuple[str, str], int]
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight file of a detector. ``present``: whether the pinned file lies where the detectors read it."""

    detector: str
    used_for: str
    name: str
    sha256: str
    licence: str
    source: str
    present: bool


@dataclass(frozen=True, slots=True)
class Measure:
    """A technical measure as it is set here, and where that was read."""

    measure: str
    state: str
    source: str


@dataclass(frozen=True, slots=True)
class Facts:
    """``since`` to ``at``: the span over which is counted. ``cameras``: those heard of in it. ``designed``: for how
    long each topic is meant to keep its messages, in milliseconds, -1: for ever."""

    at: datetime
    since: datetime
    version: str
    servers: str
    topics: Mapping[Topic, Standing | None]
    designed: Mapping[Topic, int]
    policies: Register | Absent
    floor: Floor | Absent
    cameras: tuple[str, ...] | Absent
    ingest_dropped: Mapping[str, int] | Absent
    frames: Frames | Absent
    finds: Finds | Absent
    suspensions: tuple[Suspension, ...] | Absent
    disclosures: int | Absent
    weights: tuple[Weight, ...]
    measures: tuple[Measure, ...]
    limits: tuple[Measure, ...]
    keys: tuple[Key, ...] | Absent
    drills: Drills | Absent
