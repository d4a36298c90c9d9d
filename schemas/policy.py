"""The policy: what is masked on a camera, or on those that a pattern matches, how, and on what lawful basis.

Travels on the compacted topic ``policies`` as JSON, twice: under the key ``CAMERA`` what is in force, and under
``CAMERA@VERSION`` each version ever set, so that compaction keeps them all. A policy that does not validate is no
policy: the frames it is for are then fully masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError
from sfumato.schemas.frame import Message
from sfumato.schemas.inspection import Inspection
from sfumato.schemas.masking import MaskName, Targets
from sfumato.schemas.metadata import Metadata
from sfumato.schemas.part import Moment, Part, Text
from sfumato.schemas.remedy import remedies
from sfumato.schemas.schedule import Schedule
from sfumato.schemas.zone import Zone

POLICY_TYPE = "sfumato.policy.v1"
CAMERAS = re.compile(r"[a-z0-9*?][a-z0-9*?_-]{0,63}")
"""A camera's id, or a pattern of ids: ``*`` stands for any characters, ``?`` for one."""


class LawfulBasis(StrEnum):
    """GDPR Article 6(1), (a) to (f)."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"
    VITAL_INTERESTS = "vital_interests"
    PUBLIC_TASK = "public_task"
    LEGITIMATE_INTERESTS = "legitimate_interests"


class Codec(StrEnum):
    JPEG = "jpeg"
    H264 = "h264"


class Output(Part):
    """How anonymized frames are encoded. ``keyframe_interval``: longest time between keyframes of H.264, in seconds,
    after which a consumer may join. ``bitrate``: of H.264, in kbit/s."""

    codec: Codec = Codec.JPEG
    keyframe_interval: Annotated[float, Field(gt=0, le=60)] = 2.0
    bitrate: Annotated[int, Field(ge=50, le=100_000)] = 2_000


class Damaged(StrEnum):
    """What becomes of pictures that a missing or damaged unit may have spoilt."""

    FULL_MASK = "full_mask"
    DROP = "drop"


class Audio(StrEnum):
    """What becomes of the sound of films. Live frames have none."""

    DROP = "drop"
    KEEP = "keep"


class OverloadRule(StrEnum):
    """What becomes of frames that a worker with too much to do comes to late."""

    KEEP = "keep"
    SKIP = "skip"


class Overload(Part):
    """``keep``: every frame is masked and published, however late. ``skip``: a frame captured more than ``max_age``
    seconds before it would be looked at is dropped, so that what is shown is not older than that, plus the time that
    looking, masking and encoding take."""

    rule: OverloadRule = OverloadRule.KEEP
    max_age: Annotated[float, Field(gt=0, le=3600)] = 2.0


class Policy(Part):
    """``camera``: an id or a pattern (:data:`CAMERAS`). ``retention_hours`` states how long the anonymized frames may
    be kept; the topic's retention enforces it.

    ``valid_from``, ``valid_until``: outside of them the policy gives no right to look, by the clock of the worker.
    ``schedules``: other forms of the policy, by the frame's capture time; the first that covers it is in force.
    ``hold``: seconds for which the mask of an object that is no longer found stays. ``lookahead``: seconds by which a
    frame waits for later ones, whose detections then mask it too; so much latency is added. ``metadata``: what of a
    file's stays; live frames carry none.
    """

    camera: Annotated[str, Field(pattern=f"^{CAMERAS.pattern}$")]
    version: Annotated[int, Field(ge=1, lt=2**63)]
    controller: Text
    purpose: Text
    lawful_basis: LawfulBasis
    dpia: Text
    retention_hours: Annotated[int, Field(ge=1)]
    valid_from: Moment | None = None
    valid_until: Moment | None = None
    targets: Targets
    zones: Annotated[tuple[Zone, ...], Field(max_length=100)] = ()
    schedules: Annotated[tuple[Schedule, ...], Field(max_length=50)] = ()
    hold: Annotated[float, Field(ge=0, le=10)] = 1.0
    lookahead: Annotated[float, Field(ge=0, le=2)] = 0.2
    overload: Overload = Overload()
    output: Output = Output()
    damaged: Damaged = Damaged.FULL_MASK
    audio: Audio = Audio.DROP
    inspect: Inspection = Inspection()
    metadata: Metadata = Metadata()
    _schedule: str | None = PrivateAttr(None)
    _sha256: str | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.valid_from is not None and self.valid_until is not None and self.valid_until <= self.valid_from:
            raise ValueError("valid_until: not later than valid_from")
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) < len(names):
            raise ValueError("schedules: two have the same name; the audit could not tell them apart")
        return self

    @property
    def schedule(self) -> str | None:
        """Name of the schedule whose form of the policy this is."""
        return self._schedule

    @property
    def sha256(self) -> str | None:
        """Of the text that this is a form of, where :meth:`from_text` says; see :func:`digest`."""
        return self._sha256

    def from_text(self, value: bytes) -> Policy:
        """The policy as it was read from the value of a message."""
        form = self.model_copy()
        form._sha256 = digest(value)
        return form

    def under(self, schedule: Schedule) -> Policy:
        """The form that the policy has while the schedule is in force."""
        own = {"targets": schedule.targets, "zones": schedule.zones}
        form = self.model_copy(update={name: value for name, value in own.items() if value is not None})
        form._schedule = schedule.name
        return form

    def warnings(self) -> list[str]:
        """What is valid and yet unwise, each line naming the field; ``sfumato policy validate`` prints them."""
        ended = self.valid_until is not None and self.valid_until <= datetime.now(UTC)
        found = ["valid_until: in the past; every frame will be fully masked"] if ended else []
        found += self._weak()
        found += [f"metadata.{warning}" for warning in self.metadata.warnings()]
        for number, schedule in enumerate(self.schedules):
            weak = () if schedule.full_mask else self.under(schedule)._weak()
            found += [f"schedules.{number}.{warning}" for warning in weak if warning not in found]
        return found

    def _weak(self) -> Iterator[str]:
        for target, masking in self.targets.items():
            for warning in masking.warnings(target):
                yield f"targets.{target}.{warning}"
        if self.audio is Audio.KEEP:
            yield "audio: voices identify people"
        for zone in self.zones:
            if zone.mask is MaskName.BLUR:
                yield f"zones.{zone.name}.mask: a blur can be undone (docs/masks.md)"

    def to_message(self, *, history: bool = False) -> Message:
        """What puts the policy in force; ``history``: what keeps this version readable afterwards."""
        event = CloudEvent(
            id=f"{self.camera}/{self.version}",
            source="/sfumato/policies",
            type=POLICY_TYPE,
            time=datetime.now(UTC),
            content_type="application/json",
            extensions={"camera": self.camera},
        )
        key = f"{self.camera}@{self.version}" if history else self.camera
        return Message(key.encode(), self.model_dump_json().encode(), event.headers())

    @classmethod
    def from_value(cls, value: bytes) -> Policy:
        """Read a policy as JSON; :class:`EnvelopeError` names the fields at fault and the remedies."""
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            raise EnvelopeError("value", remedies(error)) from None

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes) -> Policy:
        """Read a message of ``policies``; :class:`EnvelopeError` where it breaks the contract."""
        policy = cls.from_value(value)
        if key not in (policy.camera.encode(), f"{policy.camera}@{policy.version}".encode()):
            raise EnvelopeError("key", "differs from camera")
        return policy


def digest(value: bytes) -> str:
    """What audit events and segments call a policy by: the SHA-256 of the value of its message on ``policies``, byte
    for byte. The same policy spelt otherwise has another."""
    return sha256(value).hexdigest()


def covers(patterns: Iterable[str], name: str) -> bool:
    """Whether every camera that ``name``, an id or a pattern, stands for is one of a single pattern's. Where that is
    hard to say: no."""
    return any(_covers(pattern, name) for pattern in patterns)


@lru_cache(4096)
def _covers(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return _covers(pattern[1:], name) or (name != "" and _covers(pattern, name[1:]))
    if not name or name[0] == "*" or (pattern[0] != "?" and pattern[0] != name[0]):
        return False
    return _covers(pattern[1:], name[1:])


def specificity(pattern: str) -> tuple[int, int, str]:
    """Sorts patterns that match the same camera, the one that applies first: that with the most characters that stand
    for themselves; of equally many, that with fewer ``*``; then by the alphabet."""
    literal = len(pattern) - pattern.count("*") - pattern.count("?")
    return (-literal, pattern.count("*"), pattern)


def applicable(camera: str, names: Iterable[str]) -> str | None:
    """Which of these names of policies applies to the camera: its own, else the most specific pattern; None: none."""
    matching = [name for name in names if fnmatchcase(camera, name)]
    return camera if camera in matching else min(matching, key=specificity, default=None)
