"""The subject request: a clip in which one person alone is shown, or one person more is masked, as the API takes and
shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from math import isfinite
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, model_validator

from sfumato.schemas.anonymization import Rectangle
from sfumato.schemas.audit import Sha256
from sfumato.schemas.cloudevent import CAMERA_ID
from sfumato.schemas.detection import Target
from sfumato.schemas.part import Moment, Part, Text
from sfumato.schemas.report import Count

RequestId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
CameraId = Annotated[str, Field(pattern=f"^{CAMERA_ID.pattern}$")]
Pixels = Annotated[float, Field(ge=0, le=65_535)]


OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
"""No footage is older; nearer to year 1, hours before a moment and other time zones lie beyond the calendar."""
READ_BEFORE = 20.0
"""Seconds before the window of a clip that are read, too: there lies the keyframe that its first picture needs, and
whoever was found there is still masked a moment later."""
READ_AFTER = 2.0
"""Seconds after it: who is found there is masked before."""


class SubjectKind(StrEnum):
    """``access``: everybody but the person is masked (GDPR Article 15). ``removal``: the person is masked besides what
    the policy masks, for footage that others get."""

    ACCESS = "access"
    REMOVAL = "removal"


class SubjectState(StrEnum):
    """``pending``: wants approvals. ``approved``: the clip is being made. ``ready``: it can be fetched. ``gone``: the
    footage was shredded or deleted. ``expired``: nothing of it is left."""

    PENDING = "pending"
    APPROVED = "approved"
    READY = "ready"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    FAILED = "failed"
    GONE = "gone"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        return self not in (SubjectState.PENDING, SubjectState.APPROVED, SubjectState.READY)


class Point(Part):
    """In pixels of the anonymized picture, from its upper left corner."""

    x: Pixels
    y: Pixels


class SubjectDraft(Part):
    """What is asked for. ``epoch``, ``sequence``, ``captured_at``: of the anonymized frame on which the person was
    chosen, by a ``point`` on their box or by the ``box`` itself; ``since``, ``until``: the clip, which holds that
    frame. ``case``: under which your files say who asked and how they were identified; no names here."""

    kind: SubjectKind
    camera: CameraId
    epoch: Annotated[int, Field(ge=0, lt=2**63)]
    sequence: Annotated[int, Field(ge=0, lt=2**63)]
    captured_at: Moment
    point: Point | None = None
    box: Rectangle | None = None
    since: Moment
    until: Moment
    reason: Text
    case: Text

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.point is None) == (self.box is None):
            raise ValueError("give either a point or a box")
        if self.box is not None:
            sides = (self.box.left, self.box.top, self.box.right, self.box.bottom)
            if not (all(map(isfinite, sides)) and 0 <= sides[0] < sides[2] and 0 <= sides[1] < sides[3]):
                raise ValueError("box: wants 0 <= left < right and 0 <= top < bottom, in pixels")
        if self.since < OLDEST:
            raise ValueError(f"since: wants {OLDEST:%Y-%m-%d} or later; no footage is older")
        if not self.since <= self.captured_at <= self.until or self.since == self.until:
            raise ValueError("since, until: wants since <= captured_at <= until, and some time between them")
        return self


class Verdict(StrEnum):
    APPROVE = "approve"
    REFUSE = "refuse"


class ApprovalDraft(Part):
    """``note``: what was checked, or why not; kept for ever."""

    verdict: Verdict
    note: Text


class Approval(Part):
    by: str
    verdict: Verdict
    note: str
    at: AwareDatetime


class Clip(Part):
    """The result. ``frames``: pictures in it; ``shown``: in which the person is seen (``access``) or masked for sure
    (``removal``); ``doubtful``: in which it was not certain who or where the person is, so that all people are
    masked; ``grey``: of which nothing is shown, by reason in ``reasons``. ``undecodable``: frames without a picture."""

    href: str
    content_type: str
    bytes: Count
    sha256: Sha256
    width: Count
    height: Count
    frames: Count
    shown: Count
    doubtful: Count
    grey: Count
    undecodable: Count
    reasons: dict[str, Count] = Field(default_factory=dict)


class SubjectRequest(Part):
    """``target``, ``box``: what was chosen, in pixels of the anonymized picture. ``needed``: approvals. ``error``: why
    it failed, or why the footage is gone, at ``gone_at``. ``expires_at``: nothing can be approved or fetched then.
    ``footage_until``: the raw frames may be deleted from then on; the clip has to be made before."""

    id: RequestId
    kind: SubjectKind
    state: SubjectState
    version: Count
    camera: str
    epoch: Count
    sequence: Count
    captured_at: AwareDatetime
    target: Target | None
    box: Rectangle
    since: AwareDatetime
    until: AwareDatetime
    reason: str
    case: str
    requested_by: str
    needed: Count
    approvals: tuple[Approval, ...]
    created_at: AwareDatetime
    expires_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    error: str | None = None
    gone_at: AwareDatetime | None = None
    clip: Clip | None = None
    footage_until: AwareDatetime | None = None
