"""What was clicked on: the frame's audit event, the box in it that holds the point, and whether the footage is still
there. Reads boxes and dates, no pixels."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

from sfumato.agents.footage import stores
from sfumato.agents.queries import AuditQuery
from sfumato.agents.search import Search
from sfumato.agents.settings import Settings
from sfumato.agents.subjects.requests import Choice, GoneError
from sfumato.models import boxes
from sfumato.models.boxes import Box
from sfumato.schemas.anonymization import Rectangle
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import FrameId, format_time
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.fault import Fault
from sfumato.schemas.subject_request import Point, SubjectDraft

log = logging.getLogger(__name__)

EARLIER = 60.0
"""Seconds before its capture from which a frame's audit event is looked for: clocks differ."""
PAST = 1000
"""Sequences beyond the wanted one after which it does not come any more."""
LOOKED_AT = 1000
"""Events in one look."""
TIMEOUT = 20.0
"""Seconds."""
PEOPLE = (Target.FACE, Target.PERSON)


class PickError(Fault, ValueError):
    """The choice cannot be understood; the text names the field and the remedy."""


class NoFrameError(PickError):
    """No such frame was audited."""


def pick(settings: Settings, draft: SubjectDraft) -> Choice:
    """What the draft chose. :class:`PickError`, GoneError, and SearchError where the topic ``audit`` cannot be read."""
    event = _event(settings, draft)
    if event.captured_at != draft.captured_at:
        raise PickError("captured_at: not when the frame was captured; take it from the frame's header ce_time")
    check(settings, draft.camera, draft.captured_at, event)
    target, box = None, draft.box
    if draft.point is not None:
        detection = held(event.detections, draft.point)
        target, (x0, y0, x1, y1) = detection.target, detection.box
        box = Rectangle(left=x0, top=y0, right=x1, bottom=y1)
    assert box is not None  # the draft has either
    if event.width and event.height and not boxes.usable(_box(box), (event.width, event.height)):
        raise PickError(f"box: outside the picture, which is {event.width}x{event.height}")
    return Choice(target, box, event.origin, kept_until(settings, event))


def held(detections: tuple[Detection, ...], point: Point) -> Detection:
    """The smallest person or face that holds the point. :class:`PickError` where there is none, or where another of
    its kind does, too."""
    found = [
        d
        for d in detections
        if d.target in PEOPLE and d.box[0] <= point.x < d.box[2] and d.box[1] <= point.y < d.box[3]
    ]
    if not found:
        raise PickError("point: no face or person was found there; click inside a masked one, or give a box")
    best = min(found, key=lambda d: boxes.area(d.box))
    rivals = [d for d in found if d.target is best.target and d is not best]
    if any(d.track is None or d.track != best.track for d in rivals):
        raise PickError("point: it lies on two people; click where only one is, choose another frame, or give a box")
    return best


def check(settings: Settings, camera: str, captured_at: datetime, event: AuditEvent) -> None:
    """GoneError where the footage is known to be gone; ``sfumato reveal`` looks again, and knows for sure."""
    until = kept_until(settings, event)
    if until <= datetime.now(UTC):
        raise GoneError(
            f"the footage is deleted since {format_time(until)}: it is kept for "
            f"{settings.raw_retention_minutes} minutes (SFUMATO_RAW_RETENTION_MINUTES)",
            until,
        )
    try:
        with closing(stores.make(settings)) as store:
            hours = {found.hour: found.shredded_at for found in store.hours(camera)}
    except (stores.KeyStoreError, stores.KeySettingsError) as error:
        log.warning("whether footage is shredded is not known here: %s", error)
        return
    shredded_at = hours.get(stores.hour_of(captured_at))
    if shredded_at is not None:
        raise GoneError(f"the footage was shredded at {format_time(shredded_at)}", shredded_at)


def kept_until(settings: Settings, event: AuditEvent) -> datetime:
    """When Kafka may delete the frame, at the earliest about; it deletes in segments, later."""
    return event.audited_at + timedelta(minutes=settings.raw_retention_minutes)


def _event(settings: Settings, draft: SubjectDraft) -> AuditEvent:
    """The first event of the frame's identity."""
    wanted = FrameId(draft.camera, draft.epoch, draft.sequence)
    query = AuditQuery(lambda camera: True, draft.camera, since=draft.captured_at - timedelta(seconds=EARLIER))
    deadline = time.monotonic() + TIMEOUT
    with Search(settings, query) as search:
        for page in search.pages(LOOKED_AT):
            for event in page:
                if event.frame == wanted:
                    return event
                beyond = event.frame is not None and event.frame[1:] > (wanted.epoch, wanted.sequence + PAST)
                if beyond:
                    raise none(draft)
            if time.monotonic() > deadline:
                break
    raise none(draft)


def none(draft: SubjectDraft) -> NoFrameError:
    """Also what somebody is told who may not see the camera."""
    wanted = FrameId(draft.camera, draft.epoch, draft.sequence)
    return NoFrameError(
        f"epoch, sequence: no audit event of frame {wanted} around captured_at; take all three from the frame's "
        "headers, or from GET /v1/cameras/{id}"
    )


def _box(box: Rectangle) -> Box:
    return box.left, box.top, box.right, box.bottom
