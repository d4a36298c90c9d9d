"""Where a long film may be cut into parts that are masked by themselves, by different workers, and joined again.

A part is written from one keyframe up to another. Before and after it more is looked at, so that its masks are those of
the whole film: before it as long as a mask lives, after it as far as a later picture may reach back. What is looked at
begins at a picture of which the detectors would look at in the whole film, too.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction

from av.error import FFmpegError

from sfumato.models.film import WINDOW, Options, pace
from sfumato.models.reading import FORMATS, FilmError, Form, Origin, Reader, Span, ending
from sfumato.schemas.detection import Target
from sfumato.schemas.policy import Policy

SETTLING = 4.0
"""Seconds after which a track no longer depends on what was seen of it before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``spans``: the parts in order; empty: the film is masked as a whole. ``packets``: how many pictures it holds.
    ``cut_short``: why it ends before it said it would."""

    form: Form
    packets: int
    spans: tuple[Span, ...]
    cut_short: str | None


@dataclass(slots=True)
class Index:
    """The packets of the video, as sent: when each is shown, and the keyframes: when shown and where found."""

    pts: array[int]
    keyframes: list[tuple[int, int]]
    complete: bool
    packets: int = 0
    end: int = 0
    """When the last picture's time is over."""


def plan(origin: Origin, policy: Policy, options: Options, seconds: float) -> Plan:
    """Parts of about so many seconds. A film is not cut where it has too few keyframes, where a packet has no time, or
    where the policy masks what moves: the background is learnt from the whole film. Reads all of it, decodes little.
    Raises :class:`~sfumato.models.reading.FilmError` where it cannot be read."""
    reader = Reader(origin, options.max_pixels)
    with reader.opened() as (container, stream):
        index = _index(container, stream, by_pts=FORMATS[ending(origin)] in ("matroska", "webm"))
        reader.packets = index.packets
        reader.judge_length(container, stream, index.end * stream.time_base)
    form, count = reader.form, index.packets
    motion = policy.targets.get(Target.MOTION)
    if not index.complete or (motion is not None and not motion.detectors):
        return Plan(form, count, (), None)
    step, batch = pace(form, options)
    spans = _spans(index, form.time_base, seconds, policy.hold + SETTLING, step * batch)
    return Plan(form, count, tuple(spans), reader.cut_short) if len(spans) > 1 else Plan(form, count, (), None)


def _index(container: object, stream: object, by_pts: bool) -> Index:
    index = Index(array("q"), [], True)
    try:
        for packet in container.demux(stream):  # type: ignore[attr-defined]
            if not packet.size:
                continue
            index.packets += 1
            if packet.pts is None or packet.is_discard:  # an edit list hides some: rare, and not worth the care
                index.complete = False
                continue
            if packet.is_keyframe:
                found = packet.pts if by_pts or packet.dts is None else packet.dts
                index.keyframes.append((packet.pts, found))
            index.pts.append(packet.pts)
            index.end = max(index.end, packet.pts + (packet.duration or 0))
    except FFmpegError:
        index.complete = False  # masked as a whole, up to where it can be read
    return index


def _spans(index: Index, time_base: Fraction, seconds: float, before: float, chunk: int) -> list[Span]:
    shown = array("q", sorted(index.pts))
    starts = _starts(index, shown, int(seconds / time_base))
    margin, reach = int(before / time_base), int(WINDOW / time_base)
    keyframes = sorted(index.keyframes)
    times = [pts for pts, _ in keyframes]
    spans = []
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else None
        low, high = bisect_left(shown, start), len(shown) if end is None else bisect_left(shown, end)
        first = bisect_left(shown, start - margin) // chunk * chunk if number else 0
        last = len(shown) if end is None else -(-bisect_left(shown, end + reach) // chunk) * chunk
        # Pictures shown before a keyframe may rest on what is not read, so it is one that is shown no later.
        keyframe = bisect_left(times, shown[first] + 1) - 1
        at_start = number == 0 or keyframe <= 0
        spans.append(
            Span(
                seek=None if at_start else keyframes[keyframe][1],
                first=shown[first],
                start=shown[0] if number == 0 else start,
                end=end,
                last=shown[last] if last < len(shown) else None,
                packets=high - low if number else high,
                looked=min(last, len(shown)) - first,
            )
        )
    return spans


def _starts(index: Index, shown: array[int], length: int) -> list[int]:
    """Keyframes about so many ticks apart; the last part is no shorter than half of that."""
    if not shown:
        raise FilmError("no picture can be decoded")
    starts = [shown[0]]
    for pts, _ in sorted(index.keyframes):
        if pts - starts[-1] >= length and shown[-1] - pts >= length / 2:
            starts.append(pts)
    return starts
