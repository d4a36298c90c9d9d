"""One film file masked in two passes: look at it whole, then write it.

The second pass knows all that was found, so an object that was missed in some frames is masked there too
(:class:`~sfumato.models.tracks.Timeline`). Between the passes only boxes are kept, as text: about 100 bytes each.
Fails closed, as the engine does: a picture that the decoder concealed or that may rest on one, and one whose detection
or masking failed, becomes uniform grey.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from sfumato.models import film_metadata, looking, masks, metadata, planes
from sfumato.models.ahead import ahead
from sfumato.models.detectors import Image
from sfumato.models.engine import MOST_DETECTIONS, SMALLEST_SIDE
from sfumato.models.ensemble import Ensemble
from sfumato.models.images import GREY
from sfumato.models.looking import Sight, Watcher
from sfumato.models.metadata import Pseudonymize
from sfumato.models.mover import Mover
from sfumato.models.planes import Planes
from sfumato.models.reading import FORMATS, FilmError, Form, Origin, Reader, Shot, Span, ending
from sfumato.models.tracks import Timeline
from sfumato.models.writing import Writer
from sfumato.schemas.detection import Detection, Evidence, Target, dump_boxes, load_boxes
from sfumato.schemas.metadata import MetadataRecord
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Audio, Damaged, Policy
from sfumato.schemas.report import Account

WINDOW = 10.0
"""Seconds of boxes that later frames may still change; tracks live far shorter."""
DEPTH = 16
"""Pictures before a damaged one that may rest on it: the largest reorder buffer of H.264 and H.265."""
AHEAD = 8
"""Pictures that a stage may be ahead of the next."""
BATCH_PIXELS = 16_000_000
"""Pictures looked at together have no more pixels than that, or are one."""

Tick = Callable[[], None]
"""Called once for each picture of either pass."""


@dataclass(frozen=True, slots=True)
class Options:
    """``every_frame``: detectors look at each picture. ``batch``: pictures looked at together at most. ``crf``: the
    encoder's constant quality, None: as usual for it. ``sound``: the audio is copied. ``pseudonymize``: None removes
    what should have a pseudonym."""

    max_pixels: int = 40_000_000
    every_frame: bool = False
    batch: int = 8
    crf: int | None = None
    sound: bool = False
    pseudonymize: Pseudonymize | None = None


@dataclass(slots=True)
class Findings:
    """By picture, in order: its pts, its boxes as text, and why it cannot be simply masked."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    boxes: list[str] = field(default_factory=list)
    reasons: dict[int, tuple[Reason, str | None]] = field(default_factory=dict)
    looked_at: int = 0

    def enter(self, pts: int, sight: Sight, counts: bool) -> None:
        if sight.reason is not None:
            self.reasons.setdefault(len(self.pts), (sight.reason, sight.detail))
        self.looked_at += sight.looked and counts
        self.pts.append(pts)


def pace(form: Form, options: Options) -> tuple[int, int]:
    """Of how many pictures one is looked at in any case, and how many of those together."""
    step = 1 if options.every_frame else looking.step(float(form.rate))
    return step, max(1, min(options.batch, BATCH_PIXELS // (form.size[0] * form.size[1])))


class Film:
    """One film on its way. Raises :class:`~sfumato.models.reading.FilmError` where it cannot be read at all."""

    def __init__(
        self, path: Origin, ensemble: Ensemble, policy: Policy, options: Options, span: Span | None = None
    ) -> None:
        """``span``: the part of it that is masked, without sound, by itself (:mod:`~sfumato.models.splitting`)."""
        self._path = path
        self._ensemble = ensemble
        self._policy = policy
        self._options = options
        self._span = span
        self._reader = Reader(path, options.max_pixels, span)
        self.form: Form = self._reader.form
        self.estimate = self._reader.estimate
        """How many pictures it may hold; 0: unknown."""
        self.cut_short: str | None = None
        self.metadata = MetadataRecord()

    def mask(self, target: Path, tick: Tick) -> Account:
        """Write the masked film to ``target``, in the container that the input's name asks for; of a part without
        pictures nothing is written."""
        findings = self.look(tick)
        self.cut_short = self._reader.cut_short
        part = self._span is not None
        sound = self._path if self.sound and not part else None
        ledger = Ledger(findings.looked_at)
        kind = ending(self._path)
        tags = {} if part else self.tags(FORMATS[kind])
        with Writer(target, kind, self.form, self._options.crf, sound, tags, part=part) as writer:
            with closing(ahead(self._painted(findings), AHEAD)) as painted:
                for shot, done in painted:
                    ledger.enter(done)
                    if done.planes is not None:
                        writer.add(done.planes, shot.pts, shot.duration)
                    tick()
            if ledger.written or not part:
                writer.finish()
        if self._span is not None and self._span.packets != self._reader.packets:
            raise FilmError(f"a part holds {self._reader.packets} pictures instead of {self._span.packets}")
        ledger.close(self._reader.packets, self._reader.refused)
        return ledger.account()

    @property
    def sound(self) -> bool:
        """Whether it has sound, and that is kept: by the policy, or because it was asked for."""
        return keeps_sound(self._policy, self._options.sound, self.form)

    def tags(self, container: str) -> dict[str, str]:
        """The metadata to write into the container, as the policy says; what became of it is in ``metadata``."""
        told = film_metadata.read(self._path)
        values, self.metadata = metadata.treat(told, self._policy.metadata, self._options.pseudonymize)
        return film_metadata.tags(values, container)

    def look(self, tick: Tick = lambda: None) -> Findings:
        """The first pass: what is to be masked in each picture."""
        findings = Findings()
        timeline = Timeline(self._policy.hold, self._policy.lookahead)
        inside: deque[float] = deque()
        step, batch = pace(self.form, self._options)
        damage, mover = Damage(findings), self._mover()
        with closing(ahead(self._reader.shots(), AHEAD)) as shots:
            for shot, sight in Watcher(self._sights, step, batch).watch(shots):
                time = float(shot.pts * self.form.time_base)
                sight = _moving(mover, shot, time, sight)
                damage.follow(len(findings.pts), shot)
                findings.enter(shot.pts, sight, self._span is None or self._span.holds(shot.pts))
                size = shot.planes.size if shot.planes is not None else self.form.size
                early = self._span is not None and shot.pts < self._span.start
                timeline.append(time, size, _sure(sight.detections) if early else sight.detections, settled=early)
                inside.append(time)
                while abs(time - inside[0]) > WINDOW:
                    findings.boxes.append(dump_boxes(timeline.pop()))
                    inside.popleft()
                tick()
        findings.boxes += [dump_boxes(timeline.pop()) for _ in inside]
        if self._reader.lost_at_end:
            damage.end(len(findings.pts))
        return findings

    def _mover(self) -> Mover | None:
        """Where the policy masks what moves: with the background learnt."""
        masking = self._policy.targets.get(Target.MOTION)
        if masking is None or masking.detectors:
            return None
        mover = Mover(masking)
        with closing(ahead(self._reader.shots(), 1)) as shots:
            mover.learn((float(s.pts * self.form.time_base), s.planes) for s in shots if s.planes and not s.damaged)
        return mover

    def _sights(self, shots: Sequence[Shot]) -> list[Sight]:
        """What is in some pictures, those that cannot be looked at left out."""
        sights = [_unfit(shot) for shot in shots]
        fit = [index for index, sight in enumerate(sights) if sight is None]
        found = self._detect([planes.to_bgr(_planes(shots[index])) for index in fit])
        answers = iter(found)
        return [sight if sight is not None else next(answers) for sight in sights]

    def _detect(self, pictures: list[Image]) -> list[Sight]:
        if not pictures:
            return []
        try:
            found = self._ensemble.detect(pictures, [self._policy] * len(pictures))
        except Exception as error:  # noqa: BLE001 - fail closed
            if len(pictures) > 1:  # one bad picture must not mask the others of its batch
                return [sight for picture in pictures for sight in self._detect([picture])]
            return [Sight((), Reason.DETECTOR_ERROR, type(error).__name__, looked=False)]
        return [_judged(detections) for detections in found]

    def _painted(self, findings: Findings) -> Iterator[tuple[Shot, Painted]]:
        """The second pass: each picture as it is to be written."""
        number = 0
        with closing(ahead(self._reader.shots(), AHEAD)) as shots:
            for shot in shots:
                # Both passes decode alike; should they ever not, what was not looked at is not shown.
                while number < len(findings.pts) and findings.pts[number] < shot.pts:
                    number += 1
                known = number < len(findings.pts) and findings.pts[number] == shot.pts
                if self._span is not None and not self._span.holds(shot.pts):
                    number += known
                    if shot.pts >= self._span.start:
                        break
                    continue
                reason = findings.reasons.get(number) if known else (Reason.DAMAGED, "not seen before")
                yield shot, self._paint(shot, reason, findings.boxes[number] if known else "[]")
                number += known

    def _paint(self, shot: Shot, reason: tuple[Reason, str | None] | None, boxes: str) -> Painted:
        if reason is not None or shot.planes is None:
            why = reason[0] if reason else Reason.UNDECODABLE
            if why is Reason.DAMAGED and self._policy.damaged is Damaged.DROP:
                return Painted(None, Outcome.DROPPED, why)
            return self._grey(shot, why)
        detections = load_boxes(boxes)
        if not detections and not self._policy.zones:
            return Painted(shot.planes, Outcome.MASKED)
        try:
            before = planes.to_bgr(shot.planes)
            after = before.copy()
            spared = masks.apply(after, detections, self._policy)
            return Painted(planes.blend(shot.planes, before, after), Outcome.MASKED, None, detections, spared)
        except Exception:  # noqa: BLE001 - fail closed
            return self._grey(shot, Reason.MASK_ERROR)

    def _grey(self, shot: Shot, reason: Reason) -> Painted:
        colours = shot.planes.colours if shot.planes is not None else planes.Colours(2, 0, 2, 2)
        return Painted(planes.filled(self.form.size, GREY, colours), Outcome.FULLY_MASKED, reason)


@dataclass(frozen=True, slots=True)
class Painted:
    """A picture as it is to be written, None where it is dropped, and what became of it. ``spared``: the never-mask
    zones in which something stayed unmasked."""

    planes: Planes | None
    outcome: Outcome
    reason: Reason | None = None
    detections: tuple[Detection, ...] = ()
    spared: tuple[str, ...] = ()


class Damage:
    """Which pictures may rest on a damaged or missing one: from some before it up to the next keyframe."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._spoilt = False

    def follow(self, number: int, shot: Shot) -> None:
        if shot.after_loss or shot.damaged:
            self.end(number)
            self._spoilt = True
        if shot.keyframe and not shot.damaged:
            self._spoilt = False
        if self._spoilt:
            self._mark(number)

    def end(self, number: int) -> None:
        """The pictures shown shortly before a damaged one may have been sent after it."""
        for earlier in range(max(0, number - DEPTH), number):
            self._mark(earlier)

    def _mark(self, number: int) -> None:
        self._findings.reasons.setdefault(number, (Reason.DAMAGED, None))


class Ledger:
    """Counts what became of each picture."""

    def __init__(self, looked_at: int) -> None:
        self._looked_at = looked_at
        self._outcomes: Counter[Outcome] = Counter()
        self._reasons: Counter[Reason] = Counter()
        self._boxes: Counter[Target] = Counter()
        self._evidence: Counter[Evidence] = Counter()
        self._spared: Counter[str] = Counter()

    @property
    def written(self) -> int:
        """How many pictures were not dropped."""
        return self._outcomes[Outcome.MASKED] + self._outcomes[Outcome.FULLY_MASKED]

    def enter(self, done: Painted) -> None:
        self._outcomes[done.outcome] += 1
        if done.reason is not None:
            self._reasons[done.reason] += 1
        self._spared.update(done.spared)
        for detection in done.detections:
            self._boxes[detection.target] += 1
            self._evidence[detection.evidence] += 1

    def close(self, packets: int, refused: int) -> None:
        """Count the packets that no picture came of: refused by the decoder, or not meant to be shown."""
        missing = max(0, packets - self._outcomes.total())
        undecodable = min(missing, refused)
        for reason, count in ((Reason.UNDECODABLE, undecodable), (Reason.DISCARDED, missing - undecodable)):
            if count:
                self._reasons[reason] += count
        self._outcomes[Outcome.DROPPED] += missing

    def account(self) -> Account:
        return Account(
            frames=self._outcomes.total(),
            masked=self._outcomes[Outcome.MASKED],
            fully_masked=self._outcomes[Outcome.FULLY_MASKED],
            dropped=self._outcomes[Outcome.DROPPED],
            looked_at=self._looked_at,
            reasons=dict(self._reasons),
            boxes=dict(self._boxes),
            evidence=dict(self._evidence),
            spared=dict(self._spared),
        )


def keeps_sound(policy: Policy, asked: bool, form: Form) -> bool:
    """Whether a film's sound is copied."""
    return form.sounds > 0 and (asked or policy.audio is Audio.KEEP)


def _unfit(shot: Shot) -> Sight | None:
    """Why detectors cannot judge the picture; None where they can."""
    if shot.damaged:
        return Sight((), Reason.DAMAGED, None, looked=False)
    if shot.planes is None:
        return Sight((), Reason.UNDECODABLE, None, looked=False)
    if min(shot.planes.size) < SMALLEST_SIDE:
        return Sight((), Reason.TOO_SMALL, None, looked=False)
    return None


def _moving(mover: Mover | None, shot: Shot, time: float, sight: Sight) -> Sight:
    """The sight with what moves in the picture."""
    if mover is None or sight.reason is not None or shot.planes is None:
        return sight
    try:
        moving = mover.detect(shot.planes, time)
    except Exception as error:  # noqa: BLE001 - fail closed
        return Sight((), Reason.DETECTOR_ERROR, type(error).__name__, looked=False)
    if moving is None:
        return Sight((), Reason.LEARNING_BACKGROUND, None, looked=False)
    return replace(sight, detections=(*sight.detections, *moving))


def _sure(detections: tuple[Detection, ...]) -> tuple[Detection, ...]:
    """Before a part begins: what is weakly seen there may go on from what was surely seen where it does not look."""
    return tuple(detection.model_copy(update={"evidence": Evidence.DETECTED}) for detection in detections)


def _judged(detections: tuple[Detection, ...]) -> Sight:
    if sum(detection.evidence is not Evidence.WEAK for detection in detections) > MOST_DETECTIONS:
        return Sight((), Reason.TOO_MANY_DETECTIONS)
    return Sight(detections)


def _planes(shot: Shot) -> Planes:
    if shot.planes is None:
        raise RuntimeError("nothing decoded")
    return shot.planes
