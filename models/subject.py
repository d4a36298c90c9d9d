"""Who is who: one person followed through a clip by boxes alone, as long as there is no doubt.

Nobody is recognised: no face is compared with another, no template is made. A person is whoever the tracker says goes
on from the box that was chosen, and a tracker confuses people who come close. So it is believed only outwards from the
chosen picture, up to the first moment of doubt: another person's box that covers half of the smaller one, a second face
in the person's box, a box that jumps or grows, a gap, a cut. From there on, nobody is the person any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sfumato.models import boxes
from sfumato.models.boxes import Box
from sfumato.schemas.detection import Detection, Evidence, Target

PEOPLE = (Target.PERSON, Target.FACE)
ALIKE = 0.5
"""Intersection over union from which what is found is what was chosen."""
CROSSING = 0.5
"""Share of the smaller of two people's boxes that lies in the other, from which they may be exchanged."""
INSIDE = 0.8
"""Share of a face that lies in a person's box, from which it may be theirs."""
TOUCHED = 0.2
"""Share of a face in somebody else's box, from which it may be the other's."""
STEADY, STILL_THERE = 0.4, 0.1
"""Intersection over union that a box has at least with the person's one before it: within :data:`MOMENT`, and else."""
MOMENT = 0.2
LONGEST_GAP = 0.5
"""Seconds for which a track may be without a detection and yet be believed."""


class SubjectError(ValueError):
    """The person cannot be told from others; the text says what to choose instead."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One picture, in order of presentation. ``time``: in seconds; ``run``: another number where it does not go on
    from the one before it. ``detections``: with their tracks; none where the picture could not be looked at."""

    time: float
    run: int
    detections: tuple[Detection, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """The person in one picture. ``own``: boxes that are theirs, found in this very picture; none: who or where the
    person is, is in doubt, or they are not in it."""

    own: tuple[Detection, ...] = ()

    @property
    def certain(self) -> bool:
        return bool(self.own)

    def others(self, detections: Iterable[Detection]) -> tuple[Detection, ...]:
        """What is not the person's."""
        tracks = {d.track for d in self.own}
        return tuple(d for d in detections if d.track is None or d.track not in tracks)


def follow(moments: Sequence[Moment], chosen: int, box: Box) -> list[Place]:
    """Where the person is in each picture. ``chosen``: the number of the picture in which they had that box.
    :class:`SubjectError` where no one person there is the one."""
    first = _chosen(moments[chosen].detections, box)
    own = _partners(moments, first)
    places = [Place()] * len(moments)
    for numbers in (range(chosen, len(moments)), range(chosen, -1, -1)):
        for number, found in _walk(moments, numbers, first, own):
            places[number] = Place(found)
    if not places[chosen].certain:
        raise SubjectError(
            "box: somebody else is too close to the person in the chosen frame; choose one in which they stand apart"
        )
    return places


def _chosen(detections: Sequence[Detection], box: Box) -> Detection:
    """The person or face that has most in common with the box."""
    people = [d for d in _people(detections) if boxes.overlap(d.box, box) >= ALIKE]
    if not people:
        raise SubjectError("box: no person or face is found there in the original frame; choose a clearer frame")
    best = max(people, key=lambda d: boxes.overlap(d.box, box))
    if any(d.target is best.target and d.track != best.track for d in people):
        raise SubjectError("box: two people are found there; choose a frame in which they stand apart")
    return best


def _people(detections: Iterable[Detection]) -> list[Detection]:
    """People and faces that were found in this picture and are followed."""
    return [d for d in detections if d.target in PEOPLE and d.track is not None and d.evidence is Evidence.DETECTED]


def _partners(moments: Sequence[Moment], first: Detection) -> frozenset[int | None]:
    """The tracks that may be the person's: that of the chosen box, of their body and of their faces. A track that in
    any picture is not where it had to be, is somebody else's."""
    together: dict[tuple[int | None, int | None], bool] = {}
    for moment in moments:
        people = _people(moment.detections)
        faces, bodies = ([d for d in people if d.target is t] for t in (Target.FACE, Target.PERSON))
        for face in faces:
            for body in bodies:
                pair = face.track, body.track
                together[pair] = together.get(pair, True) and _belongs(face, body, bodies)
    own = {first.track}
    if first.target is Target.FACE:
        own |= {body for (face, body), always in together.items() if always and face == first.track}
    return frozenset(own | {face for (face, body), always in together.items() if always and body in own})


def _belongs(face: Detection, body: Detection, bodies: Iterable[Detection]) -> bool:
    """Whether it can be this body's face and nobody else's."""
    middle = (face.box[1] + face.box[3]) / 2
    upper = middle < (body.box[1] + body.box[3]) / 2
    others = any(boxes.share(face.box, d.box) >= TOUCHED for d in bodies if d.track != body.track)
    return upper and boxes.share(face.box, body.box) >= INSIDE and not others


def _walk(
    moments: Sequence[Moment], numbers: Iterable[int], first: Detection, own: frozenset[int | None]
) -> Iterator[tuple[int, tuple[Detection, ...]]]:
    """The person's boxes from the chosen picture on in one direction, each of their tracks up to the first doubt."""
    last: dict[int | None, tuple[float, Detection]] = {}
    doubted: set[int | None] = set()
    run: int | None = None
    for number in numbers:
        moment = moments[number]
        if run not in (None, moment.run):
            return
        run = moment.run
        people = {d.track: d for d in reversed(_people(moment.detections)) if d.track in own}
        followed = last.keys() or {first.track}
        doubted |= {t for t in followed if not _goes_on(people.get(t), last.get(t), moment)}
        found = [d for t, d in people.items() if t in followed - doubted and not _disturbed(d, moment, own)]
        found += [d for t, d in people.items() if t not in followed | doubted and _joins(d, found, moment, own)]
        doubted |= people.keys() - {d.track for d in found}
        last |= {d.track: (moment.time, d) for d in found}
        yield number, tuple(found)
        if last.keys() <= doubted:
            return


def _goes_on(now: Detection | None, before: tuple[float, Detection] | None, moment: Moment) -> bool:
    """Whether a track still is of what it was of when it was seen before."""
    if before is None:
        return now is not None
    after = abs(moment.time - before[0])
    if now is None:
        return after <= LONGEST_GAP
    return boxes.overlap(now.box, before[1].box) >= (STEADY if after <= MOMENT else STILL_THERE)


def _joins(detection: Detection, known: Iterable[Detection], moment: Moment, own: frozenset[int | None]) -> bool:
    """Whether a track that begins is of the person: a face in their body, or the body around their face."""
    for other in known:
        face, body = (detection, other) if detection.target is Target.FACE else (other, detection)
        paired = face.target is Target.FACE and body.target is Target.PERSON
        if paired and boxes.share(face.box, body.box) >= INSIDE:
            return not _disturbed(detection, moment, own)
    return False


def _disturbed(person: Detection, moment: Moment, own: frozenset[int | None]) -> bool:
    """Whether something in the same picture may be confused with the person, or stands in their box."""
    alike = [d for d in moment.detections if d.target is person.target and d.track != person.track]
    if any(boxes.cover(d.box, person.box) >= CROSSING for d in alike):
        return True
    if person.target is Target.FACE:
        return False
    faces = [d for d in moment.detections if d.target is Target.FACE and boxes.share(d.box, person.box) >= CROSSING]
    found = {d.track for d in faces if d.evidence is Evidence.DETECTED}
    return len(found) > 1 or any(d.track not in own for d in faces)
