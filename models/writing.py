"""A film file of pictures that come one by one, at the times they come with; if wanted, sound and tags; no more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.error import FFmpegError

from sfumato.models import planes
from sfumato.models.planes import Planes
from sfumato.models.reading import FORMATS, FilmError, Form, Origin, open_film

X264 = ("libx264", {"preset": "veryfast"}, 20)
VP9 = ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "6", "row-mt": "1"}, 31)
ENCODERS = {"mp4": X264, "mov": X264, "matroska": X264, "webm": VP9}
"""By container: the encoder with its options and usual CRF (constant quality)."""
PART = ".mp4"
"""The ending of a part: MP4 counts in any time base, Matroska in milliseconds alone."""
FINEST_CLOCK = 10_000
"""Ticks per second at least of an MP4's movie as a whole."""


class Writer:
    """A context manager; what was not finished with :meth:`finish` is not a whole film."""

    def __init__(
        self,
        path: Path,
        ending: str,
        form: Form,
        crf: int | None,
        sound: Origin | None,
        tags: Mapping[str, str] | None = None,
        *,
        part: bool = False,
    ) -> None:
        """``ending`` chooses container and encoder; ``part``: the container is one that keeps the times of each of them
        (:mod:`~sfumato.models.joining`). ``sound``: the film whose audio streams are copied. ``tags``: metadata of the
        file, by :func:`sfumato.models.film_metadata.tags`."""
        self._path = path
        self._container = FORMATS[PART if part else ending]
        self._codec, self._options, usual = ENCODERS[FORMATS[ending]]
        self._crf = usual if crf is None else crf
        self._form = form
        self._sound = Sound(sound) if sound else None
        self._tags = dict(tags or {})
        self._output: Any = None
        self._stream: Any = None
        self._pts: int | None = None
        self._durations: dict[int, int] = {}

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._output is not None:
            with suppress(FFmpegError):
                self._output.close()
        if self._sound is not None:
            self._sound.close()

    def add(self, picture: Planes, pts: int, duration: int) -> None:
        """The next picture, shown at ``pts`` in the form's time base; one that is not later than the picture before it
        is moved on by a tick."""
        if self._output is None:
            self._open(picture)
        self._pts = pts = pts if self._pts is None else max(pts, self._pts + 1)
        frame = planes.to_frame(picture, self._form.size)
        frame.pts, frame.time_base = pts, self._form.time_base
        self._durations[pts] = duration
        self._mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Complete the file. :class:`FilmError` where no picture was added."""
        if self._output is None:
            raise FilmError("no picture came of it")
        self._mux(self._stream.encode(None))
        for packet in self._sound.until(None) if self._sound else ():
            self._output.mux(packet)
        self._output.close()
        self._output = None

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if duration := self._durations.pop(packet.pts, 0):
                packet.duration = duration
            if self._sound and packet.dts is not None:
                for heard in self._sound.until(packet.dts * packet.time_base):
                    self._output.mux(heard)
            self._output.mux(packet)

    def _open(self, first: Planes) -> None:
        self._output = create_film(self._path, self._container, self._form.time_base, self._tags)
        self._stream = stream = self._output.add_stream(self._codec, rate=self._form.rate)
        context = stream.codec_context
        context.width, context.height = self._form.size
        context.pix_fmt = "yuv420p"
        stream.time_base = context.time_base = self._form.time_base
        context.bit_rate = 0
        context.options = {**self._options, "crf": str(self._crf)}
        colours = first.colours
        context.colorspace, context.color_range = colours.matrix, colours.range
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        if self._form.aspect:
            context.sample_aspect_ratio = self._form.aspect
        if self._sound is not None:
            self._sound.join(self._output)


def create_film(path: Path, container: str, time_base: Fraction, tags: Mapping[str, str] | None = None) -> Any:
    """A new file as PyAV writes it, for pictures in this time base; ``tags``: its metadata."""
    options = {}
    if container in ("mp4", "mov"):
        ticks = time_base.denominator
        ticks *= math.ceil(FINEST_CLOCK / ticks)  # FFmpeg's own 1000 would move a film that begins later than at 0
        flags = "faststart+use_metadata_tags" if tags else "faststart"
        options = {"movflags": flags, "movie_timescale": str(ticks)}
    output = av.open(f"file:{path}", "w", format=container, options=options)
    output.metadata.update(tags or {})
    return output


class Sound:
    """The audio streams of a file, copied as they are, without their names and languages."""

    def __init__(self, path: Origin) -> None:
        self._input: Any = open_film(path)
        self._streams: dict[int, Any] = {}
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None

    def join(self, output: Any) -> None:
        """Announce the streams to a file before its first packet."""
        heard = list(self._input.streams.audio)
        try:
            self._streams = {stream.index: output.add_stream_from_template(stream) for stream in heard}
        except (ValueError, FFmpegError) as error:
            raise FilmError(f"its sound cannot be kept: {error}") from None
        self._packets = self._input.demux(heard) if heard else iter(())

    def until(self, time: Fraction | None) -> Iterator[Any]:
        """The packets up to a time in seconds, or all that are left; what cannot be read ends the sound."""
        while True:
            if self._next is None:
                try:
                    self._next = next(self._packets, None)
                except FFmpegError:
                    self._packets = iter(())
                if self._next is None:
                    return
            packet = self._next
            if packet.dts is not None and time is not None and packet.dts * packet.time_base > time:
                return
            self._next = None
            if packet.dts is not None:
                packet.stream = self._streams[packet.stream.index]
                yield packet

    def close(self) -> None:
        self._input.close()
