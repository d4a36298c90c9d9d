"""What ``sfumato mask`` did to each file: counts, boxes by class, hashes; no pixels, no metadata's value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfumato.schemas.audit import DetectorRecord, Sha256
from sfumato.schemas.detection import Evidence, Target
from sfumato.schemas.masking import Masking
from sfumato.schemas.metadata import MetadataRecord
from sfumato.schemas.outcome import Reason

Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kind(StrEnum):
    PICTURE = "picture"
    FILM = "film"


class Account(_Record):
    """The pictures of one file. Each ended as exactly one outcome: ``frames`` is their sum, and ``reasons`` explains
    all that were not simply masked. ``looked_at``: those that detectors saw themselves. ``boxes`` by class, and by
    ``evidence``: how they came to be masked. ``spared``: by never-mask zone, the pictures in which something that was
    found there stayed unmasked."""

    frames: Count
    masked: Count
    fully_masked: Count
    dropped: Count
    looked_at: Count
    reasons: dict[Reason, Count] = {}
    boxes: dict[Target, Count] = {}
    evidence: dict[Evidence, Count] = {}
    spared: dict[str, Count] = {}

    @model_validator(mode="after")
    def _reconciled(self) -> Account:
        if self.frames != self.masked + self.fully_masked + self.dropped:
            raise ValueError("frames: differs from masked + fully_masked + dropped")
        if sum(self.reasons.values()) != self.fully_masked + self.dropped:
            raise ValueError("reasons: do not add up to fully_masked + dropped")
        return self


def total(accounts: Iterable[Account]) -> Account:
    """The account of pictures counted in parts."""
    counts = dict.fromkeys(("frames", "masked", "fully_masked", "dropped", "looked_at"), 0)
    tallies: dict[str, Counter[str]] = {name: Counter() for name in ("reasons", "boxes", "evidence", "spared")}
    for account in accounts:
        for name in counts:
            counts[name] += getattr(account, name)
        for name, tally in tallies.items():
            tally.update(getattr(account, name))
    return Account.model_validate({**counts, **tallies})


class FileRecord(_Record):
    """One input file. ``error``: why there is no output; ``cut_short``: the input ended before it said it would, and
    what could be read is in the output. ``sound``: whether the audio was kept. ``metadata``: by name what stayed and
    what was removed. ``credentials``: whether the output carries a signed C2PA manifest; null: not asked for.
    ``seconds``: how long it took."""

    input: str
    kind: Kind | None = None
    output: str | None = None
    error: str | None = None
    cut_short: str | None = None
    account: Account | None = None
    width: Count | None = None
    height: Count | None = None
    sound: bool = False
    metadata: MetadataRecord | None = None
    credentials: bool | None = None
    input_bytes: Count | None = None
    input_sha256: Sha256 | None = None
    output_bytes: Count | None = None
    output_sha256: Sha256 | None = None
    seconds: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> FileRecord:
        if (self.output is None) != (self.output_sha256 is None) or (self.output is None) == (self.error is None):
            raise ValueError("output: goes with output_sha256, or an error stands instead")
        return self


class PolicyRecord(_Record):
    """The policy of ``--policy``."""

    camera: str
    version: int
    sha256: Sha256


class Report(_Record):
    """One run. ``policy`` is null where none was given: ``targets`` then says what was masked by default.
    ``skipped``: files of given folders that are neither pictures nor films, or hidden; nothing of them was written.
    ``interrupted``: the run was ended before all files were done."""

    sfumato: str
    began_at: datetime
    seconds: Annotated[float, Field(ge=0)]
    policy: PolicyRecord | None = None
    targets: dict[Target, Masking]
    zones: Count = 0
    detectors: tuple[DetectorRecord, ...]
    files: tuple[FileRecord, ...]
    skipped: tuple[str, ...] = ()
    interrupted: bool = False
