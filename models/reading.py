"""A film file to pictures, in presentation order, with what was lost on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.error import FFmpegError
from av.stream import Disposition

from sfumato.models import planes
from sfumato.models.decoders import NOTICE
from sfumato.models.planes import Planes

MOST_ATTEMPTS = 64
"""How often a decoder that fails while it is emptied is asked again; it holds no more pictures than that."""
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's container by the ending of a file's name; :mod:`sfumato.models.writing` has an encoder for each."""
MEDIA_TYPES = {"video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "matroska", "video/webm": "webm"}
"""FFmpeg's container by media type."""
ENDINGS = {"video/mp4": ".mp4", "video/quicktime": ".mov", "video/x-matroska": ".mkv", "video/webm": ".webm"}
"""The usual ending of a name by media type."""
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
"""What FFmpeg may take a file for, by its names; the containers that name other files or URLs are not among them."""
MOST_STREAMS = 32
"""FFmpeg opens no more of a file; some demuxers leave out the rest without a word."""
PATIENCE = 60.0
"""Seconds after which FFmpeg gives up opening a file, or reading on."""
ANY_RATE = Fraction(25)
"""Frames per second where the file does not say."""


TOLERANCE = Fraction(1)
"""Seconds by which a film may be shorter than it says."""


class FilmError(ValueError):
    """A film that cannot be read or written; the text says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """A film that lies in no file of its own: ``open`` gives it anew for each pass, seekable. ``media_type``: one of
    :data:`MEDIA_TYPES`."""

    open: Callable[[], Seekable]
    media_type: str


Origin = Path | Source


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a film, by times in its time base. Decoding begins at the keyframe found at ``seek`` (None: where the
    film begins), looking at ``first``, writing at ``start``; ``end`` is the first picture not to be written, ``last``
    the first not to be looked at; None: the film's end. ``packets``: how many pictures are to be written, ``looked``:
    to be looked at."""

    seek: int | None
    first: int
    start: int
    end: int | None
    last: int | None
    packets: int
    looked: int

    def holds(self, pts: int) -> bool:
        """Whether a picture is to be written."""
        return self.start <= pts and (self.end is None or pts < self.end)


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a film. ``pts`` and ``duration`` in the film's time base. ``planes``: None where they cannot be
    used. ``damaged``: the decoder concealed a part. ``after_loss``: pictures before it could not be decoded."""

    pts: int
    duration: int
    keyframe: bool
    damaged: bool
    after_loss: bool
    planes: Planes | None


@dataclass(frozen=True, slots=True)
class Form:
    """What a film says of itself: ``size`` (width and height, upright, even), ``rate`` in frames per second,
    ``aspect`` of one upright pixel, ``sounds``: how many audio streams."""

    size: tuple[int, int]
    time_base: Fraction
    rate: Fraction
    aspect: Fraction | None
    sounds: int


class Reader:
    """Reads the first video stream. ``packets``, ``refused`` (by the decoder) and ``cut_short`` (why) tell of the
    pass that was made last, and ``lost_at_end`` whether its last pictures were lost. ``estimate``: how many there may
    be; 0: unknown."""

    def __init__(self, path: Origin, max_pixels: int, span: Span | None = None) -> None:
        """``span``: the part of it that is read; then ``packets`` and ``refused`` count what is to be written alone,
        and ``cut_short`` is not judged. Raises :class:`FilmError` where the file holds no video or a larger one than
        ``max_pixels``."""
        self._path = path
        self._max_pixels = max_pixels
        self._span = span
        self.packets = 0
        self.refused = 0
        self.lost_at_end = False
        self.cut_short: str | None = None
        self.estimate = 0
        self.form = self._form()

    def shots(self) -> Iterator[Shot]:
        """One pass over the film. Raises :class:`FilmError` where nothing can be read; what is lost is skipped."""
        self.packets, self.refused, self.cut_short = 0, 0, None
        with self.opened() as (container, stream):
            lost, end = False, None
            first, last = self._seek(container, stream)
            for frame in self._frames(container, stream):
                if frame is None:
                    lost = True
                    continue
                if first is not None and (frame.pts is None or frame.pts < first):
                    lost = False  # shown before the keyframe and may rest on what was not read
                    continue
                if last is not None and frame.pts is not None and frame.pts >= last:
                    return
                yield (shot := _shot(frame, lost))
                lost, end = False, (shot.pts + shot.duration) * stream.time_base
            self.lost_at_end = lost
            if self._span is None:
                self.judge_length(container, stream, end or Fraction(0))

    def _seek(self, container: Any, stream: Any) -> tuple[int | None, int | None]:
        """Go to the span's keyframe; the first time to be looked at, and the first that is not any more."""
        span = self._span
        if span is None:
            return None, None
        if span.seek is not None:
            container.seek(span.seek, stream=stream)
        return span.first, span.last

    def _frames(self, container: Any, stream: Any) -> Iterator[av.VideoFrame | None]:
        """Pictures, and None where some were lost."""
        packets = container.demux(stream)
        latest = self._span.first if self._span is not None else None
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError as error:
                self.cut_short = f"reading stopped ({type(error).__name__})"
                packet = None
            if packet is not None and packet.size:
                if latest is not None and (packet.pts is None or packet.pts > latest):
                    raise FilmError("cannot be read from its middle")
                latest = None
                counts = self._span is None or (packet.pts is not None and self._span.holds(packet.pts))
                self.packets += counts
                try:
                    yield from stream.decode(packet)
                except FFmpegError:
                    self.refused += counts
                    yield None
            else:
                yield from self._rest(stream)
                return

    def _rest(self, stream: Any) -> Iterator[av.VideoFrame | None]:
        for _ in range(MOST_ATTEMPTS):
            try:
                yield from stream.decode(None)
            except FFmpegError as error:
                if isinstance(error, av.EOFError):
                    return
                yield None
            else:
                return

    def judge_length(self, container: Any, stream: Any, end: Fraction) -> None:
        """Set ``cut_short``: whether the file holds what it says, where it does say. ``end``: of the last picture, in
        seconds."""
        stated = _stated_end(container, stream)
        if self.cut_short is not None:
            return
        if self.packets < stream.frames:
            self.cut_short = f"it says {stream.frames} pictures and holds {self.packets}"
        elif stated is not None and end + TOLERANCE < stated:
            self.cut_short = f"it says {float(stated):.1f} seconds and ends after {float(end):.1f}"

    def _form(self) -> Form:
        with self.opened() as (container, stream):
            context = stream.codec_context
            if not 0 < context.width * context.height <= self._max_pixels:
                raise FilmError(f"{context.width}x{context.height}: more than {self._max_pixels} pixels")
            first = self._first(container, stream)
            width, height = first.width - first.width % 2, first.height - first.height % 2
            aspect = stream.sample_aspect_ratio or None
            if round(first.rotation / 90) % 2:
                width, height, aspect = height, width, 1 / aspect if aspect else None
            if min(width, height) < 2:
                raise FilmError(f"{first.width}x{first.height}: too small to be encoded")
            rate = stream.average_rate or stream.guessed_rate or ANY_RATE
            self.estimate = stream.frames or round((container.duration or 0) / av.time_base * rate)
            return Form((width, height), stream.time_base, rate, aspect, len(container.streams.audio))

    def _first(self, container: Any, stream: Any) -> av.VideoFrame:
        frame = next((frame for frame in self._frames(container, stream) if frame is not None), None)
        if frame is None:
            raise FilmError("no picture can be decoded")
        return frame

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, Any]]:
        with open_film(self._path, self._max_pixels) as container:
            stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
            if stream is None or stream.codec_context is None:
                raise FilmError("holds no video that can be decoded")
            context = stream.codec_context
            context.thread_type = "AUTO"
            context.options = {"max_pixels": str(self._max_pixels)}
            if context.name in NOTICE:
                context.options = {**context.options, "err_detect": NOTICE[context.name]}
            yield container, stream


def ending(origin: Origin) -> str:
    """Of a film's name, in small letters: it tells its container."""
    return origin.suffix.lower() if isinstance(origin, Path) else ENDINGS[origin.media_type]


def _stated_end(container: Any, stream: Any) -> Fraction | None:
    """Where the video ends by what the file says, in seconds; None where it speaks of all its streams at once."""
    if stream.duration is not None:
        return Fraction(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if (tag := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))) is not None:
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    if container.duration is not None and len(container.streams) == 1:
        return Fraction((container.start_time or 0) + container.duration, av.time_base)
    return None


def open_film(path: Origin, max_pixels: int = 2**31 - 1) -> Any:
    """The file as PyAV opens it: as what its name says, since FFmpeg would take a playlist for a film and follow it.
    Raises :class:`FilmError`."""
    if isinstance(path, Source):
        return open_file(path.open(), path.media_type, max_pixels)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise FilmError(f"not one of {' '.join(sorted(FORMATS))}")
    try:
        return av.open(f"file:{path}", format=form, options={"protocol_whitelist": "file"}, metadata_errors="ignore")
    except (FFmpegError, OSError) as error:
        raise FilmError(f"not a film that can be read ({type(error).__name__})") from None


class Seekable(Protocol):
    """What is read of a file."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...


def open_file(file: Seekable, media_type: str, max_pixels: int) -> Any:
    """The film in a seekable file, as one of :data:`MEDIA_TYPES`; what FFmpeg opens is this file and nothing else,
    whatever it says. Raises :class:`FilmError`."""
    options = {
        "protocol_whitelist": "none",
        "format_whitelist": DEMUXERS,
        "enable_drefs": "0",
        "max_streams": str(MOST_STREAMS),
        "max_pixels": str(max_pixels),  # of the decoders that look for the streams' forms
        "threads": "1",
    }
    try:
        return av.open(
            file,
            format=MEDIA_TYPES[media_type],
            options=options,
            metadata_errors="ignore",
            io_open=_refuse,
            timeout=(PATIENCE, PATIENCE),
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise FilmError(f"not a film that can be read ({type(error).__name__})") from None


def _refuse(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError("a film may not open other files")


def _shot(frame: Any, after_loss: bool) -> Shot:
    if frame.pts is None:
        raise FilmError("a picture has no time")
    try:
        converted = planes.from_frame(frame)
    except (FFmpegError, ValueError):  # an unusual pixel format or a size of nothing
        converted = None
    return Shot(frame.pts, frame.duration or 0, bool(frame.key_frame), bool(frame.is_corrupt), after_loss, converted)
