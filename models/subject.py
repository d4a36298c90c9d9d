"""Who is who: one person followed through a clip by boxes alone, as long as there is no doubt.

Nobody is recognised: no face is compared with another, no template is made. A person is whoever the tracker says goes
on from the box that was chosen, and a tracker confuses people who come close. So it is believed only outwards from the
chosen picture, up to the first moment of doubt: another person's box that covers half of the smaller one, a second face
in the person's box, a box that jumps or grows, somebody close by while the person was not seen, a gap, a cut. From
there on, nobody is the person any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
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
"""Seconds for which a track may be without a detection and yet be believed,"""
BLINK = 0.1
"""and those within which nobody takes another's place unseen: after a longer time, everybody in reach may have."""
COVERED = 0.25
"""Share of the smaller box from which somebody who comes or goes within that time may have been taken for them."""
REACH, SPEED = 0.5, 5.0
"""What is in reach: the boxes before and after and what is so many widths from them, or so many in a second. From
things as they are: shoulders of 0.5 m, and a slow runner's 2.5 m/s."""


class SubjectError(ValueError):
    """The person cannot be told from others; the text says what to choose instead."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One picture, in order of presentation. ``time``: in seconds; ``run``: another number where it does not go on
    from the one before it. ``detections``: faces and whole bodies, with their tracks."""

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


def follow(moments: Sequence[Moment], chosen: int, box: Box) -> list[Place]:
    """Where the person is in each picture. ``chosen``: the number of the picture in which they had that box.
    :class:`SubjectError` where no one person there is the one."""
    first = _chosen(moments[chosen].detections, box)
    places = [Place()] * len(moments)
    for numbers in (range(chosen, len(moments)), range(chosen, -1, -1)):
        for number, found in _walk(moments, numbers, first):
            places[number] = Place(found)
    if not places[chosen].certain:
        raise SubjectError(
            "box: somebody else is too close to the person in the chosen frame; choose one in which they stand apart"
        )
    return places


def parts(seen: Iterable[tuple[Sequence[Detection], Place]]) -> frozenset[int | None]:
    """The tracks of what is masked in these pictures that are the person's own: in each picture where the person is
    certain and the track was found, it is their face, lies in their body, or is what a detector took for text in their
    face. Other text on them is not theirs: it may name somebody."""
    own: dict[int | None, bool] = {}
    for detections, place in seen:
        for detection in _found(detections, (*PEOPLE, Target.TEXT)) if place.certain else ():
            wanted = Target.PERSON if detection.target is Target.PERSON else Target.FACE
            alike = [d for d in place.own if d.target is wanted]
            if alike or detection.target is Target.FACE:
                own[detection.track] = own.get(detection.track, True) and any(_part(detection, d) for d in alike)
    return frozenset(track for track, always in own.items() if always)


def _part(detection: Detection, own: Detection) -> bool:
    if detection.target is Target.FACE:
        return boxes.overlap(detection.box, own.box) >= ALIKE
    return boxes.share(detection.box, own.box) >= INSIDE


def _chosen(detections: Sequence[Detection], box: Box) -> Detection:
    """The person or face that has most in common with the box."""
    found = _found(detections)
    people = [d for d in found if boxes.overlap(d.box, box) >= ALIKE]
    if not people:  # what was chosen may be part of a body, as tiles show it
        people = [d for d in found if d.target is Target.PERSON and boxes.share(box, d.box) >= INSIDE]
    if not people:
        raise SubjectError("box: no person or face is found there in the original frame; choose a clearer frame")
    best = max(people, key=lambda d: boxes.overlap(d.box, box))
    if any(d.target is best.target and d.track != best.track for d in people):
        raise SubjectError("box: two people are found there; choose a frame in which they stand apart")
    return best


def _found(detections: Iterable[Detection], targets: Collection[Target] = PEOPLE) -> list[Detection]:
    """What was found in this very picture and is followed."""
    return [d for d in detections if d.target in targets and d.track is not None and d.evidence is Evidence.DETECTED]


def _walk(
    moments: Sequence[Moment], numbers: Sequence[int], first: Detection
) -> Iterator[tuple[int, tuple[Detection, ...]]]:
    """The person's boxes from the chosen picture on in one direction, up to the first doubt. A body that is not found
    any more is let go, and the face goes on without it; or the other way round."""
    last: dict[int | None, tuple[int, Detection]] = {}
    foreign: set[int | None] = set()
    for number in numbers:
        moment = moments[number]
        near = {t for t, (before, _) in last.items() if _apart(moments[before], moment) <= LONGEST_GAP}
        followed = near if last else {first.track}
        if moment.run != moments[numbers[0]].run or not followed:
            return
        people = {d.track: d for d in reversed(_found(moment.detections))}
        found = [d for t, d in people.items() if t in followed]
        joining = [d for t, d in people.items() if t not in followed | foreign]
        found += [d for d in joining if any(_belong(d, other, moment) for other in found)]
        own = {d.track for d in found} | followed
        hidden = [d for d in moment.detections if d.track in own - people.keys()]
        if any(_disturbed(d, moment, own) for d in (*found, *hidden)):
            return
        for now in (d for d in found if d.track in last):
            before, old = last[now.track]
            span = min(before, number), max(before, number)
            if _jumped(moments[before], old, moment, now) or _exchanged(moments, span, old, now, own):
                return
        foreign |= people.keys() - own
        last |= {d.track: (number, d) for d in found}
        yield number, tuple(found)


def _apart(one: Moment, other: Moment) -> float:
    """Seconds, to the millisecond: times since 1970 have no finer difference that could be relied on."""
    return round(abs(one.time - other.time), 3)


def _jumped(before: Moment, old: Detection, now: Moment, new: Detection) -> bool:
    """Whether a track is not of what it was of when it was seen before."""
    return boxes.overlap(new.box, old.box) < (STEADY if _apart(before, now) <= MOMENT else STILL_THERE)


def _exchanged(
    moments: Sequence[Moment], span: tuple[int, int], old: Detection, new: Detection, own: set[int | None]
) -> bool:
    """Whether a track, seen at both ends of the span of moments, may be somebody else's by now: somebody who
    covered them came or went; or after more than a :data:`BLINK`, anybody who was or is within reach, one picture
    before and after included: they may have been missed meanwhile."""
    first, last = (moments[number] for number in span)
    x, y, width, height = boxes.centred(boxes.union(old.box, new.box))
    if (apart := _apart(first, last)) <= BLINK:
        both = {d.track for d in _found(first.detections)} & {d.track for d in _found(last.detections)}
        seen, own, least = [first, last], own | both, COVERED
    else:
        more = 2 * max(REACH, SPEED * apart) * (new.box[2] - new.box[0])
        width, height = width + more, height + more
        seen, least = list(moments[max(0, span[0] - 1) : span[1] + 2]), 0.0
    reach = boxes.cornered(x, y, width, height)
    others = (d for moment in seen for d in moment.detections if d.target is new.target and d.track not in own)
    return any(boxes.cover(d.box, reach) > least for d in others)


def _belong(one: Detection, other: Detection, moment: Moment) -> bool:
    """Whether they are a face and its body, and the face can be nobody else's."""
    face, body = (one, other) if one.target is Target.FACE else (other, one)
    if face.target is not Target.FACE or body.target is not Target.PERSON:
        return False
    bodies = (d for d in moment.detections if d.target is Target.PERSON and d.track != body.track)
    others = any(boxes.share(face.box, d.box) >= TOUCHED for d in bodies)
    return _fits(face, body) and not others


def _fits(face: Detection, body: Detection) -> bool:
    """Whether the face lies where a body has it."""
    middle = (face.box[1] + face.box[3]) / 2
    return middle < (body.box[1] + body.box[3]) / 2 and boxes.share(face.box, body.box) >= INSIDE


def _disturbed(person: Detection, moment: Moment, own: set[int | None]) -> bool:
    """Whether something in the same picture may be confused with the person, or stands in their box."""
    alike = [d for d in moment.detections if d.target is person.target and d.track != person.track]
    if any(boxes.cover(d.box, person.box) >= CROSSING for d in alike):
        return True
    if person.target is Target.FACE:
        return False
    faces = [d for d in moment.detections if d.target is Target.FACE]
    faces = [d for d in faces if d.track in own or boxes.share(d.box, person.box) >= CROSSING]
    found = {d.track for d in faces if d.evidence is Evidence.DETECTED}
    return len(found) > 1 or any(d.track not in own or not _fits(d, person) for d in faces)
