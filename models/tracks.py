"""Boxes over time: what was found in one frame also masks the frames around it in which it was missed.

Association as in ByteTrack (Zhang et al., arXiv 2110.06864): first the certain detections, then the weak ones for the
tracks left over; each pair by overlap with the predicted box, or by distance where a small box moved far. Pairs are
taken greedily, likeliest first: a swapped number costs no mask. Each track is a Kalman filter of constant velocity
with white acceleration, as in SORT (arXiv 1602.00763). Why no library: ``docs/decisions/0009-time.md``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from sfumato.models import boxes
from sfumato.models.boxes import Box
from sfumato.schemas.detection import Detection, Evidence, Target

Grid = NDArray[np.float64]
"""Shape (tracks, boxes)."""

SPEEDS = {
    Target.FACE: 5.0,
    Target.LICENCE_PLATE: 20.0,
    Target.PERSON: 2.0,
    Target.VEHICLE: 4.0,
    Target.TEXT: 3.0,
    Target.MOTION: 2.0,
}
"""How fast an unknown object may be, in its own sizes (square root of the area) per second, as standard deviation.
From things as they are: a face of 0.2 m on a walker of 1.4 m/s moves 7 sizes a second, a plate of 0.24 m on a car of
30 km/h 35, a person of 0.9 m 1.5."""
NOISE = 0.08
"""Standard deviation of a detected box's centre, in sizes."""
MOST_GROWTH = 0.5
"""A predicted box grows at each side by the standard deviation of its place, at most by so many sizes."""
GATE = 3.0
"""A box further from its track's predicted place than so many standard deviations is another object."""
OVERLAP = 0.1
"""Intersection over union from which a certain detection may continue a track; a weak one from WEAK_OVERLAP."""
WEAK_OVERLAP = 0.3
SAME = 0.5
"""Boxes of one frame that overlap so much are one object, seen by two detectors."""
SETTLED = 3
"""Detections after which a track's velocity is not improved for the frames before its birth any more."""
MOTION_HOLD = 0.3
"""Longest hold of what moves, in seconds: its boxes merge and split, and the background itself remembers for long."""
MOST_TRACKS = 2000
"""Tracks at a time. So many are a detector gone wild, and its frames are fully masked anyhow."""


@dataclass(slots=True)
class Track:
    """One object. Centre ``x``, ``y`` and velocity as filtered at the time ``seen`` (seconds); ``place``, ``drift``
    and ``speed`` are the covariance of place and velocity, the same on both axes."""

    number: int
    target: Target
    born: float
    first: Box
    seen: float
    score: float
    last: Box
    x: float
    y: float
    width: float
    height: float
    place: float
    speed: float
    drift: float = 0.0
    vx: float = 0.0
    vy: float = 0.0
    hits: int = 1

    @classmethod
    def begin(cls, number: int, time: float, box: Box, detection: Detection) -> Track:
        x, y, width, height = boxes.centred(box)
        size, target = math.sqrt(width * height), detection.target
        place, speed = (NOISE * size) ** 2, (SPEEDS[target] * size) ** 2
        return cls(number, target, time, box, time, detection.score, box, x, y, width, height, place, speed)

    @property
    def size(self) -> float:
        return math.sqrt(self.width * self.height)

    def predict(self, time: float) -> Box:
        """Where the object is at ``time`` if its velocity stays; not grown."""
        after = time - self.seen
        return boxes.cornered(self.x + self.vx * after, self.y + self.vy * after, self.width, self.height)

    def variance(self, time: float) -> float:
        """Of the predicted centre, on one axis, in square pixels."""
        after = time - self.seen
        return self.place + 2 * self.drift * after + self.speed * after**2 + self._jerk * after**3 / 3

    def held(self, time: float) -> Box:
        """The predicted box, grown by its uncertainty."""
        return self._grown(self.predict(time), self.variance(time))

    def before(self, time: float, box: Box, at: float) -> Box:
        """Where the object that had ``box`` at ``at`` was at the earlier ``time``; grown by its uncertainty."""
        ago = at - time
        moved = boxes.moved(box, -self.vx * ago, -self.vy * ago)
        return self._grown(moved, (NOISE * self.size) ** 2 + self.speed * ago**2 + self._jerk * ago**3 / 3)

    def observe(self, time: float, box: Box, score: float) -> None:
        """The object was found."""
        after = time - self.seen
        x, y, width, height = boxes.centred(box)
        px, py = self.x + self.vx * after, self.y + self.vy * after
        place = self.variance(time)
        drift = self.drift + self.speed * after + self._jerk * after**2 / 2
        speed = self.speed + self._jerk * after
        total = place + (NOISE * math.sqrt(width * height)) ** 2
        gain, pull = place / total, drift / total
        self.x, self.y = px + gain * (x - px), py + gain * (y - py)
        self.vx, self.vy = self.vx + pull * (x - px), self.vy + pull * (y - py)
        self.place, self.drift, self.speed = place * (1 - gain), drift * (1 - gain), speed - pull * drift
        # A box shrinks slowly: half-hidden objects give small ones.
        self.width = max(width, 0.8 * self.width + 0.2 * width)
        self.height = max(height, 0.8 * self.height + 0.2 * height)
        self.seen, self.score, self.last = time, score, box
        self.hits += 1

    def resize(self, across: float, down: float) -> None:
        """The picture has another size: everything in it by these factors."""
        self.first, self.last = boxes.scaled(self.first, across, down), boxes.scaled(self.last, across, down)
        self.x, self.vx, self.width = self.x * across, self.vx * across, self.width * across
        self.y, self.vy, self.height = self.y * down, self.vy * down, self.height * down
        self.place, self.drift, self.speed = (v * across * down for v in (self.place, self.drift, self.speed))

    @property
    def _jerk(self) -> float:
        """Density of the white acceleration: within a second, a speed may become any other of its kind."""
        return (SPEEDS[self.target] * self.size) ** 2

    def _grown(self, box: Box, variance: float) -> Box:
        by = min(math.sqrt(variance), MOST_GROWTH * self.size)
        return box[0] - by, box[1] - by, box[2] + by, box[3] + by


@dataclass(slots=True)
class Moment:
    """One frame inside: what was found by track, what cannot be tracked, and weak ones that continued nothing."""

    time: float
    size: tuple[int, int]
    run: int
    found: dict[int, list[Detection]] = field(default_factory=dict)
    loose: list[Detection] = field(default_factory=list)
    weak: list[Detection] = field(default_factory=list)


class Timeline:
    """The tracks of one camera or film, and its frames from the oldest not yet taken out.

    An object that is missed keeps its mask for ``hold`` seconds after it was last found, predicted and grown, unless
    its predicted box has left the picture; a third of that where it was found once, two thirds where twice, since most
    false alarms are seen once. A new one also masks the frames inside from up to ``reach`` seconds before. Where one is
    found again, the frames inside since it was lost are masked from its old place to its new one, too.
    Every certain detection stays in its frame as it was found.
    """

    def __init__(self, hold: float, reach: float) -> None:
        self.hold = hold
        self.reach = reach
        self._moments: deque[Moment] = deque()
        self._tracks: list[Track] = []
        self._left: list[Track] = []
        """Tracks from before a cut: masks that stay where they were."""
        self._count = 0
        self._run = 0
        self._time = -math.inf
        self._other_clock = False
        self._settled = False
        self._size = (0, 0)

    def __len__(self) -> int:
        """How many frames are inside."""
        return len(self._moments)

    def append(
        self, time: float, size: tuple[int, int], detections: Sequence[Detection], *, settled: bool = False
    ) -> None:
        """The next frame: its time in seconds, its width and height in pixels, and what was found in it, weak boxes
        included. A time that goes back is a :meth:`cut`; in a picture of another size, the tracks are scaled to it.
        ``settled``: what is new in it may have been seen often before, and is held as long."""
        self._settled = settled
        if time < self._time:
            self.cut(clock=True)
        if self._other_clock:
            for track in self._left:
                track.seen += time - self._time
            self._other_clock = False
        self._fit(size)
        self._time = time
        moment = Moment(time, size, self._run)
        self._moments.append(moment)
        found: dict[Target, list[Detection]] = {track.target: [] for track in self._tracks}
        for detection in detections:
            if boxes.usable(detection.box, size):
                found.setdefault(detection.target, []).append(detection)
            elif detection.evidence is not Evidence.WEAK:
                moment.loose.append(detection)
        for target, own in found.items():
            self._follow(moment, target, own)
        self._tracks = [track for track in self._tracks if self._goes_on(track)]
        self._left = [track for track in self._left if time - track.seen < self._hold(track)]
        for track in self._left:
            _put(moment, track, track.last, Evidence.TRACKED)

    def pop(self) -> tuple[Detection, ...]:
        """Take out the oldest frame: its boxes, each with track and evidence, none weak. IndexError where empty."""
        moment = self._moments.popleft()
        return (*chain.from_iterable(moment.found.values()), *moment.loose)

    def cut(self, *, clock: bool = False) -> None:
        """The next frame does not follow on from those before: nothing is predicted or taken back across. But the masks
        that there are stay where they are until their time is over, since nobody knows what lies between. ``clock``:
        the times that follow are another clock's; the next frame counts as taken at once."""
        for track in self._tracks:
            track.last = track.held(self._time)
        self._left += self._tracks
        self._tracks = []
        self._run += 1
        self._other_clock = clock

    def _follow(self, moment: Moment, target: Target, found: list[Detection]) -> None:
        tracks = [track for track in self._tracks if track.target is target]
        objects = _objects(d for d in found if d.evidence is not Evidence.WEAK)
        weak = [d for d in found if d.evidence is Evidence.WEAK]
        pairs, missed = _pair(tracks, [box for box, _ in objects], moment.time, OVERLAP, GATE)
        for track, number in pairs:
            self._continue(track, moment, objects[number][0], objects[number][1])
        continued, lost = _pair(missed, [d.box for d in weak], moment.time, WEAK_OVERLAP, 0.0)
        for track, number in continued:
            box = boxes.union(weak[number].box, track.predict(moment.time))
            # The outline is the weak box's own: alone it would mask less than the predicted box does.
            update = {"box": boxes.clip(box, moment.size), "evidence": Evidence.DETECTED, "outline": None}
            self._continue(track, moment, weak[number].box, [weak[number].model_copy(update=update)])
        used = {number for _, number in continued}
        moment.weak += [d for number, d in enumerate(weak) if number not in used]
        for track in lost:
            if self._goes_on(track):
                _put(moment, track, track.held(moment.time), Evidence.TRACKED)
        taken = {number for _, number in pairs}
        for number, (box, seen) in enumerate(objects):
            if number not in taken:
                self._begin(moment, box, seen)

    def _begin(self, moment: Moment, box: Box, seen: list[Detection]) -> None:
        if len(self._tracks) >= MOST_TRACKS:
            moment.loose += seen
            return
        self._count += 1
        track = Track.begin(self._count, moment.time, box, seen[0])
        if self._settled:
            track.hits = SETTLED
        self._tracks.append(track)
        moment.found[track.number] = [d.model_copy(update={"track": track.number}) for d in seen]
        self._take_back(track)

    def _continue(self, track: Track, moment: Moment, box: Box, seen: list[Detection]) -> None:
        self._bridge(track, moment.time, box)
        track.observe(moment.time, box, seen[0].score)
        moment.found[track.number] = [d.model_copy(update={"track": track.number}) for d in seen]
        if track.hits <= SETTLED:
            self._take_back(track)

    def _bridge(self, track: Track, time: float, box: Box) -> None:
        """Between the last detection and this one: the straight way too, besides what was predicted."""
        for moment in self._inside(until=time):
            if moment.time <= track.seen:
                break
            share = (moment.time - track.seen) / (time - track.seen)
            between = boxes.between(track.last, box, share)
            already = moment.found.get(track.number)
            _put(moment, track, boxes.union(between, already[0].box) if already else between, Evidence.TRACKED)

    def _take_back(self, track: Track) -> None:
        """Mask the frames before the track's birth; a weak detection there leads further back."""
        box, at = track.first, track.born
        for moment in self._inside(until=track.born):
            if at - moment.time > self.reach:
                break
            where = track.before(moment.time, box, at)
            weak = _nearest(where, [d for d in moment.weak if d.target is track.target])
            if weak is not None:
                box, at = weak.box, moment.time
                where = boxes.union(where, box)
            if not _put(moment, track, where, Evidence.LOOKAHEAD):
                break

    def _inside(self, until: float) -> Iterator[Moment]:
        """The frames before that time which may be changed, latest first."""
        for moment in reversed(self._moments):
            if moment.run != self._run or moment.size != self._size:
                return
            if moment.time < until:
                yield moment

    def _goes_on(self, track: Track) -> bool:
        return self._time - track.seen <= self._hold(track) and boxes.meets(track.predict(self._time), self._size)

    def _hold(self, track: Track) -> float:
        if track.target is Target.MOTION:
            return min(self.hold, MOTION_HOLD)
        return self.hold * min(1.0, track.hits / SETTLED)

    def _fit(self, size: tuple[int, int]) -> None:
        if self._size != size and all(self._size):
            for track in chain(self._tracks, self._left):
                track.resize(size[0] / self._size[0], size[1] / self._size[1])
        self._size = size


def _put(moment: Moment, track: Track, box: Box, evidence: Evidence) -> bool:
    """Mask a box in the frame, as the track's; False where it lies outside the picture."""
    if not boxes.meets(box, moment.size):
        return False
    found = Detection(
        target=track.target, score=track.score, box=boxes.clip(box, moment.size), track=track.number, evidence=evidence
    )
    moment.found[track.number] = [found]
    return True


def _objects(detections: Iterable[Detection]) -> list[tuple[Box, list[Detection]]]:
    """Boxes that overlap for the most part are one object, whose box is their union. Likeliest first."""
    objects: list[tuple[Box, list[Detection]]] = []
    for detection in sorted(detections, key=lambda d: -d.score):
        for number, (box, seen) in enumerate(objects):
            if boxes.overlap(detection.box, box) >= SAME:
                objects[number] = (boxes.union(box, detection.box), [*seen, detection])
                break
        else:
            objects.append((detection.box, [detection]))
    return objects


def _pair(
    tracks: list[Track], found: list[Box], time: float, least: float, gate: float
) -> tuple[list[tuple[Track, int]], list[Track]]:
    """Tracks with the numbers of the boxes that continue them, and the tracks left over."""
    if not tracks or not found:
        return [], tracks
    overlap, near = _closeness(tracks, found, time, gate)
    likely = np.where((overlap >= least) | (near > 0), overlap + near, 0.0)
    pairs: list[tuple[Track, int]] = []
    missed, free = dict(enumerate(tracks)), set(range(len(found)))
    rows, columns = np.nonzero(likely)
    for index in np.argsort(-likely[rows, columns], kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row in missed and column in free:
            pairs.append((missed.pop(row), column))
            free.remove(column)
    return pairs, list(missed.values())


def _closeness(tracks: list[Track], found: list[Box], time: float, gate: float) -> tuple[Grid, Grid]:
    """Of each track and box: intersection over union, and 1 (same centre) to 0 (at the gate or of another size)."""
    left, top, right, bottom = np.array([track.predict(time) for track in tracks]).T[:, :, None]
    x0, y0, x1, y1 = np.array(found).T[:, None]
    width, height = np.minimum(right, x1) - np.maximum(left, x0), np.minimum(bottom, y1) - np.maximum(top, y0)
    both = np.maximum(width, 0) * np.maximum(height, 0)
    predicted, seen = (right - left) * (bottom - top), (x1 - x0) * (y1 - y0)
    overlap = both / (predicted + seen - both)
    if not gate:
        return overlap, np.zeros_like(overlap)
    apart = np.hypot(left + right - x0 - x1, top + bottom - y0 - y1) / 2
    noise = np.array([track.variance(time) + (NOISE * track.size) ** 2 for track in tracks])[:, None]
    alike = (predicted < 6 * seen) & (seen < 6 * predicted)
    return overlap, np.maximum(1 - apart / (gate * np.sqrt(noise)), 0) * alike


def _nearest(box: Box, detections: list[Detection]) -> Detection | None:
    """The detection that has most of its area in the box, if more than half."""
    best = max(detections, key=lambda d: boxes.share(d.box, box), default=None)
    return best if best is not None and boxes.share(best.box, box) > 0.5 else None
