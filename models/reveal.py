"""Pictures in which one person alone is seen, or one person more is masked. Pure: no Kafka, no keys.

Two passes over the same frames: the first looks at all of them and follows the person (:mod:`sfumato.models.subject`),
the second paints. Everything begins masked, and what is shown is taken out of that mask: a pixel of the person's own
box that no other's grown box and no zone covers. Where anything is missing, failed or in doubt, the person is masked
as everybody else, or the picture is grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice

import numpy as np

from sfumato.models import boxes, images, masks
from sfumato.models.boxes import Box
from sfumato.models.decoders import Decoders
from sfumato.models.detectors import Image
from sfumato.models.engine import MOST_DETECTIONS, SMALLEST_SIDE
from sfumato.models.ensemble import Ensemble
from sfumato.models.images import GREY, ImageError
from sfumato.models.memories import SLACK
from sfumato.models.motion import Motion
from sfumato.models.regions import cut, regions
from sfumato.models.scene import Change, Scene
from sfumato.models.subject import TOUCHED, Moment, Place, SubjectError, follow, parts
from sfumato.models.task import NoPolicy, Task
from sfumato.models.tracks import Timeline
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import Detection, Evidence, Target
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.masking import DEFAULTS, Masking, MaskName, Shape
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Damaged, Output, Overload, Policy
from sfumato.schemas.subject_request import SubjectKind
from sfumato.schemas.unit import CODECS
from sfumato.schemas.zone import Rule

PERSONLIKE = (Target.FACE, Target.PERSON, Target.LICENCE_PLATE, Target.TEXT)
"""Masked whatever the policy says."""
LOOKAHEAD = 2.0
"""Seconds; the most that a policy may ask for."""
LEAST_HOLD = 1.0
"""Seconds for which what is no longer found stays masked, at least."""

WHOLE = 5
"""A picture that is so many times as high as the smallest body wanted is looked at as a whole, without tiles
(:data:`sfumato.models.ssdlite.SIDE` by :data:`~sfumato.models.ssdlite.SEEN`)."""
UNKNOWN_SIZE = (36, 64)
"""Height and width of the grey picture for a frame that states no size that could be."""

Source = Callable[[], Iterator[Task]]
"""One pass over the frames, in their order: each opened, or with its outcome where it cannot be."""
Tick = Callable[[], None]
"""Called after each picture of either pass; ends the work by raising."""


def everybody(policy: Policy) -> Policy:
    """The policy that masks everything like a person besides what this one masks: solid, and sparing nothing."""
    wanted = dict.fromkeys((*policy.targets, *PERSONLIKE))
    usual = {target: Masking(**DEFAULTS.get(target, {})) for target in wanted}
    strict = {"mask": MaskName.SOLID, "shape": Shape.RECTANGLE, "feather": 0.0, "detectors": ()}
    targets = {}
    for target in wanted:
        stated = policy.targets.get(target, usual[target])
        widest = max(stated.dilation, usual[target].dilation)
        targets[target] = stated.model_copy(update={**strict, "dilation": widest})
    zones = tuple(
        zone.model_copy(update={"mask": MaskName.SOLID}) for zone in policy.zones if zone.rule is Rule.ALWAYS_MASK
    )
    return policy.model_copy(
        update={
            "targets": targets,
            "zones": zones,
            "hold": max(policy.hold, LEAST_HOLD),
            "lookahead": LOOKAHEAD,
            "overload": Overload(),
            "damaged": Damaged.FULL_MASK,
            "output": Output(),
        }
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """``frame``: on which the person had the ``box``, in pixels. ``since``, ``until``: the clip. ``policy``: the one in
    force for the camera when that frame was captured; ``policy_at``: for another moment of capture."""

    kind: SubjectKind
    frame: FrameId
    box: Box
    since: datetime
    until: datetime
    policy: Policy
    policy_at: Callable[[datetime], Policy | NoPolicy]

    def holds(self, frame: RawFrame) -> bool:
        return self.since <= frame.captured_at <= self.until

    def withheld(self, frame: RawFrame) -> Reason | None:
        """Why nothing of a frame of the clip may be shown: what holds for it is no policy, or by its schedules another
        form than the one that the clip is made by."""
        form = self.policy_at(frame.captured_at)
        if isinstance(form, NoPolicy):
            return form.reason
        return None if form == self.policy else Reason.SCHEDULED


class State(StrEnum):
    """What became of the person in a picture: ``shown`` (or masked for sure, where that was wanted), ``doubtful``: all
    people are masked, ``grey``: nothing is seen at all."""

    SHOWN = "shown"
    DOUBTFUL = "doubtful"
    GREY = "grey"


@dataclass(frozen=True, slots=True)
class Painted:
    frame: RawFrame
    image: Image
    state: State
    reason: Reason | None = None


@dataclass(slots=True)
class Findings:
    """Of the first pass, picture by picture: ``people``, by which the person is followed, and what is ``masked``. By
    frame: its number among them, or why nothing of it may be shown."""

    people: list[Moment] = field(default_factory=list)
    masked: list[tuple[Detection, ...]] = field(default_factory=list)
    numbers: dict[FrameId, int] = field(default_factory=dict)
    reasons: dict[FrameId, Reason] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """In one picture: ``all`` that is to be masked, weak boxes included; ``people``: faces and whole bodies, without:
    what is weakly seen counts for a mask, and against showing somebody."""

    all: tuple[Detection, ...]
    people: tuple[Detection, ...]


class Reveal:
    """One clip. Raises :class:`~sfumato.models.subject.SubjectError` where the person cannot be told from others, and
    what ``source`` and ``tick`` raise."""

    def __init__(self, ensemble: Ensemble, wanted: Wanted, max_pixels: int, batch: int, tick: Tick = lambda: None):
        self._ensemble = ensemble
        self._wanted = wanted
        self._policy = everybody(wanted.policy)
        self._max_pixels = max_pixels
        self._batch = batch
        self._tick = tick
        self.undecodable = 0
        """Frames of the clip that no picture came of."""
        if missing := ensemble.missing(self._policy):
            raise SubjectError(f"not everybody could be masked: {missing}")

    def pictures(self, source: Source) -> Iterator[Painted]:
        """The clip's pictures, in order of presentation."""
        findings = self.look(source())
        chosen = findings.numbers.get(self._wanted.frame)
        if chosen is None:
            why = findings.reasons.get(self._wanted.frame, Reason.UNDECODABLE)
            raise SubjectError(f"frame: the chosen one cannot be looked at in the original ({why}); choose another")
        places = follow(findings.people, chosen, self._wanted.box)
        own = parts(zip(findings.masked, places, strict=True))
        for task in self._decoded(source()):
            if self._wanted.holds(task.frame) and task.reason is not Reason.DISCARDED:
                number, withheld = findings.numbers.get(task.frame.id), self._wanted.withheld(task.frame)
                if task.image is None or number is None or withheld is not None:
                    yield self._greyed(task, findings.reasons.get(task.frame.id) or withheld)
                else:
                    yield self._painted(task.frame, task.image, findings.masked[number], places[number], own)
            self._tick()

    def look(self, tasks: Iterator[Task]) -> Findings:
        """The first pass: what is in each picture, those before the clip included, whose masks reach into it."""
        findings = Findings()
        masked = Timeline(self._policy.hold, LOOKAHEAD + SLACK)
        people = Timeline(self._policy.hold, reach=0.0)  # where somebody may have come from says nothing of who is who
        scene, motion, run = Scene(), Motion(), 0
        decoded = self._decoded(tasks)
        kept: list[tuple[FrameId, float, int]] = []
        while chunk := list(islice(decoded, self._batch)):
            for task, found in zip(chunk, self._detect(chunk), strict=True):
                self._tick()
                if task.image is None or found is None:
                    findings.reasons[task.frame.id] = task.reason or Reason.UNDECODABLE
                    continue
                at = _time(task.frame)
                change = scene.follow(task.frame, task.image, at, self._policy.hold)
                if change in (Change.RUN, Change.CLOCK, Change.CUT):
                    masked.cut(clock=change is not Change.CUT)
                    people.cut(clock=change is not Change.CUT)
                    run += 1
                moving = self._moving(motion, change, task.image, at)
                if moving is None:
                    findings.reasons[task.frame.id] = Reason.LEARNING_BACKGROUND
                size = task.image.shape[1], task.image.shape[0]
                masked.append(at, size, [*found.all, *(moving or ())])
                people.append(at, size, found.people)
                task.image = None
                kept.append((task.frame.id, at, run))
        for number, (frame, at, its_run) in enumerate(kept):
            findings.masked.append(masked.pop())
            findings.people.append(Moment(at, its_run, people.pop()))
            if len(findings.masked[-1]) > MOST_DETECTIONS:
                findings.reasons[frame] = Reason.TOO_MANY_DETECTIONS
            if frame not in findings.reasons:
                findings.numbers[frame] = number
        return findings

    def _moving(self, motion: Motion, change: Change | None, image: Image, at: float) -> tuple[Detection, ...] | None:
        """What moves, where the policy masks that; None while that is not known."""
        if change not in (None, Change.CLOCK):
            motion.reset()
        masking = self._policy.targets.get(Target.MOTION)
        return () if masking is None else motion.detect(image, at, masking)

    def _decoded(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """Each with its picture or its outcome, in order of presentation."""
        decoders = Decoders(1, self._max_pixels)
        camera = self._wanted.frame.camera
        for task in tasks:
            if task.outcome is None and task.frame.content_type in CODECS:
                settled = decoders.decode([task])
            else:
                settled = [*decoders.close(camera), self._still(task)]
            yield from (self._judged(each) for each in settled)
        yield from (self._judged(each) for each in decoders.close(camera))

    def _still(self, task: Task) -> Task:
        if task.outcome is None:
            try:
                task.image = images.decode(task.frame.payload, task.frame.content_type, max_pixels=self._max_pixels)
            except ImageError as error:
                task.drop(error.reason)
        return task

    def _judged(self, task: Task) -> Task:
        unit = task.frame.unit
        if unit is not None and unit.discard:
            task.drop(Reason.DISCARDED)
        elif task.image is not None and min(task.image.shape[:2]) < SMALLEST_SIDE:
            task.mask_fully(Reason.TOO_SMALL)
        return task

    def _detect(self, tasks: Sequence[Task]) -> list[Found | None]:
        """What is found in each picture; None where there is none or detection failed."""
        fit = [task for task in tasks if task.image is not None]
        answers = iter(self._found(fit))
        return [next(answers) if task.image is not None else None for task in tasks]

    def _found(self, tasks: list[Task]) -> list[Found | None]:
        if not tasks:
            return []
        pictures = [task.image for task in tasks if task.image is not None]
        try:
            found = self._ensemble.detect(pictures, [self._policy] * len(pictures))
            bodies = self._ensemble.detect(pictures, [_whole(self._policy, picture) for picture in pictures])
        except Exception:  # noqa: BLE001 - fail closed
            if len(tasks) > 1:  # one bad picture must not hide the others of its batch
                return [answer for task in tasks for answer in self._found([task])]
            tasks[0].mask_fully(Reason.DETECTOR_ERROR)
            return [None]
        return [*map(self._sound, tasks, found, bodies)]

    def _sound(self, task: Task, found: tuple[Detection, ...], bodies: tuple[Detection, ...]) -> Found | None:
        if sum(d.evidence is not Evidence.WEAK for d in found) <= MOST_DETECTIONS:
            people = (*bodies, *(d for d in found if d.target is Target.FACE))
            return Found((*found, *bodies), tuple(d for d in people if d.evidence is not Evidence.WEAK))
        task.mask_fully(Reason.TOO_MANY_DETECTIONS)
        return None

    def _greyed(self, task: Task, reason: Reason | None) -> Painted:
        self.undecodable += task.image is None
        return _grey(task.frame, task.image, task.reason or reason or Reason.UNDECODABLE, self._max_pixels)

    def _painted(
        self,
        frame: RawFrame,
        image: Image,
        detections: tuple[Detection, ...],
        place: Place,
        own: frozenset[int | None],
    ) -> Painted:
        try:
            painted, shown = self._paint(image, detections, place, own)
        except Exception:  # noqa: BLE001 - fail closed
            return _grey(frame, image, Reason.MASK_ERROR, self._max_pixels)
        return Painted(frame, painted, State.SHOWN if shown else State.DOUBTFUL)

    def _paint(
        self, image: Image, detections: tuple[Detection, ...], place: Place, own: frozenset[int | None]
    ) -> tuple[Image, bool]:
        """The picture, and whether the person is seen in it, or masked for sure."""
        masked = image.copy()
        removing = self._wanted.kind is SubjectKind.REMOVAL and place.certain
        if removing:
            theirs = (d for d in detections if d.target in self._wanted.policy.targets or _near(d, place, own))
            detections = (*theirs, *place.own)
        masks.apply(masked, detections, self._policy)
        if removing or not place.certain:
            return masked, removing
        visible = self._visible(image, detections, place, own)
        return np.where(visible[:, :, None], image, masked), bool(visible.any())

    def _visible(
        self, image: Image, detections: tuple[Detection, ...], place: Place, own: frozenset[int | None]
    ) -> np.ndarray:
        """The pixels that are the person's and nobody else's: shape (height, width), boolean. Of what only moves it is
        not known whose it is: in the person's own box it is taken to be theirs."""
        height, width = image.shape[:2]
        visible = np.zeros((height, width), bool)
        for detection in place.own:
            x0, y0, x1, y1 = boxes.clip(detection.box, (width, height))
            visible[math.ceil(y0) : math.floor(y1), math.ceil(x0) : math.floor(x1)] = True
        others = tuple(d for d in detections if d.track not in own and d.target is not Target.MOTION)
        for region in regions(others, self._policy, width, height)[0]:
            visible[cut(region.box)] &= ~region.pixels
        return visible


def _whole(policy: Policy, image: Image) -> Policy:
    """Whole bodies alone, each as one box: no tiles, which show a body in parts."""
    masking = policy.targets[Target.PERSON].model_copy(update={"smallest": max(4, -(-image.shape[0] // WHOLE))})
    return policy.model_copy(update={"targets": {Target.PERSON: masking}})


def _near(detection: Detection, place: Place, own: frozenset[int | None]) -> bool:
    """Whether it is the person's, or may be."""
    touches = any(boxes.cover(detection.box, each.box) >= TOUCHED for each in place.own)
    return detection.track in own or (detection.target in PERSONLIKE and touches)


def _grey(frame: RawFrame, image: Image | None, reason: Reason, max_pixels: int) -> Painted:
    """Of the frame's size, made without looking at it."""
    height, width = image.shape[:2] if image is not None else (frame.height, frame.width)
    if not 0 < width * height <= max_pixels:
        height, width = UNKNOWN_SIZE
    return Painted(frame, np.full((height, width, 3), GREY, np.uint8), State.GREY, reason)


def _time(frame: RawFrame) -> float:
    """In seconds: of access units by their presentation time, which has no jitter."""
    return frame.unit.seconds if frame.unit is not None else frame.captured_at.timestamp()
