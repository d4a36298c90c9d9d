"""The files of an exported folder (docs/verify.md): their names, and what each line says.

Every file but the audit events and the frames has one spelling for one content: :func:`parse` refuses any other, so
that nobody can change a byte that nothing looks at.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfumato.schemas.audit import Sha256, summary
from sfumato.schemas.cloudevent import CAMERA_ID, EnvelopeError, FrameId
from sfumato.schemas.segment import LOG_NAME, Count

FORMAT: Literal["sfumato.export.v1"] = "sfumato.export.v1"
MANIFEST, AUDIT, POLICIES, WEIGHTS = "manifest.json", "audit.jsonl", "policies.jsonl", "weights.json"
KEY, COPIES = "verifier.key", "copies.jsonl"
CHECKPOINTS, CONSISTENCY, FRAMES = "checkpoints", "consistency", "frames"
SUFFIXES = {"image/jpeg": ".jpg"}
"""Of a frame's file, by content type; an access unit of H.264 is ``.h264``."""
LARGEST_SEQUENCE, LARGEST_EPOCH = 10**12 - 1, 10**13 - 1
"""Those that have room in a file's name; at 25 frames a second the first is reached after 1,000 years."""

LONGEST_PATH = 63
"""Hashes of an inclusion proof in the largest tree; a consistency proof has no more than twice as many."""
MOST_WEIGHTS = 10_000

_FRAME = re.compile(
    rf"{FRAMES}/(?P<camera>{CAMERA_ID.pattern})/(?P<epoch>[0-9]{{13}})/(?P<thousand>[0-9]{{9}})"
    r"/(?P<sequence>[0-9]{12})\.(?:jpg|h264)"
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Searched(_Record):
    """The first line of the copies, if anybody looked for them: what was read of ``frames.anonymized``, all
    ``partitions``, from ``begin`` to ``end`` by the broker's clock; ``messages``: those of the camera among it."""

    begin: datetime
    end: datetime
    partitions: Count
    messages: Count


class Scope(_Record):
    """What was exported: leaves ``first`` to ``size`` (exclusive) of a log, with or without the frames."""

    format: Literal["sfumato.export.v1"] = FORMAT
    log: Annotated[str, Field(pattern=f"^{LOG_NAME.pattern}$")]
    first: Count
    size: Count
    frames: bool


class File(_Record):
    """One file of the folder; ``path`` with slashes, ``size`` in bytes."""

    path: str
    size: Count
    sha256: Sha256


class Consistency(_Record):
    """The proof that the tree of ``first`` leaves is a beginning of that of ``second`` (RFC 9162, 2.1.4)."""

    first: Count
    second: Count
    path: Annotated[tuple[Sha256, ...], Field(max_length=2 * LONGEST_PATH, fail_fast=True)]


class PolicyVersion(_Record):
    """A version of a policy: the key and the value of its message on ``policies``."""

    key: str
    value: str


class Weight(_Record):
    """The weights of a detector that looked at frames of the export; ``name``: as this release of sfumato calls them,
    None where it does not know them."""

    detector: str
    sha256: Sha256
    name: str | None = None


class Weights(_Record):
    weights: Annotated[tuple[Weight, ...], Field(max_length=MOST_WEIGHTS, fail_fast=True)]


class Copy(_Record):
    """A message of ``frames.anonymized`` under the camera's key that no audit event names. ``event``: whether there is
    an event of its identity, which then names other bytes. ``epoch`` and ``sequence`` None: it has no identity, since
    its headers break their contract."""

    epoch: Count | None
    sequence: Count | None
    event: bool
    sha256: Sha256
    size: Count
    partition: Count
    offset: Count


T = TypeVar("T", bound=BaseModel)


def dump(record: BaseModel) -> bytes:
    """The one line that the record is written as, without its newline."""
    return record.model_dump_json().encode()


def parse(type_: type[T], line: bytes) -> T:
    """Read what :func:`dump` wrote; :class:`EnvelopeError` where it is anything else."""
    try:
        record = type_.model_validate_json(line)
    except ValidationError as error:
        raise EnvelopeError("value", summary(error)) from None
    if dump(record) != line:
        raise EnvelopeError("value", "not spelt as an export spells it")
    return record


def leaf_line(leaf: bytes) -> bytes:
    """A leaf as a line: byte for byte, or where it would not be one line, its Base64 as a JSON string."""
    if b"\n" in leaf or leaf.startswith(b'"'):
        return b'"' + base64.b64encode(leaf) + b'"'
    return leaf


def leaf(line: bytes) -> bytes:
    """Read what :func:`leaf_line` wrote; :class:`EnvelopeError` where it is anything else."""
    if not line.startswith(b'"'):
        return line
    try:
        found = base64.b64decode(line[1:-1], validate=True)
    except ValueError:
        found = b""
    if leaf_line(found) != line:
        raise EnvelopeError("value", "not spelt as an export spells it")
    return found


def has_place(epoch: int, sequence: int) -> bool:
    """Whether the numbers have room in a file's name."""
    return 0 <= epoch <= LARGEST_EPOCH and 0 <= sequence <= LARGEST_SEQUENCE


def frame_path(frame: FrameId, suffix: str) -> str:
    """Where the value of a frame that has a place lies. Numbers are padded, so that paths sort as frames do."""
    return f"{FRAMES}/{frame.camera}/{frame.epoch:013}/{frame.sequence // 1000:09}/{frame.sequence:012}{suffix}"


def frame_of(path: str) -> FrameId | None:
    """The frame whose value lies there; None: no frame's does."""
    found = _FRAME.fullmatch(path)
    if found is None or int(found["sequence"]) // 1000 != int(found["thousand"]):
        return None
    return FrameId(found["camera"], int(found["epoch"]), int(found["sequence"]))


def checkpoint_path(size: int) -> str:
    return f"{CHECKPOINTS}/{size:020}.txt"


def consistency_path(first: int) -> str:
    return f"{CONSISTENCY}/{first:020}.json"
