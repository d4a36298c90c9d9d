"""The masked parts of a film joined into one: nothing is decoded or encoded again.

Each part was encoded by itself from a keyframe on, with the same settings, at the times that its pictures have in the
whole film; so they only have to follow one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from av.error import FFmpegError

from sfumato.models.reading import FORMATS, FilmError, Form, Origin, open_film
from sfumato.models.writing import Sound, create_film


class DifferentError(FilmError):
    """Two parts were encoded differently, so that they cannot follow one another."""


def join(
    parts: Sequence[Origin],
    target: Path,
    ending: str,
    form: Form,
    sound: Origin | None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """``ending`` chooses the container of ``target``. ``sound``: the film whose audio streams are copied. ``tags``:
    metadata of the file. Raises
    :class:`~sfumato.models.reading.FilmError` where there is no part, and
    :class:`DifferentError`."""
    if not parts:
        raise FilmError("no picture came of it")
    heard = Sound(sound) if sound is not None else None
    try:
        with closing(create_film(target, FORMATS[ending], form.time_base, tags)) as output:
            _join(parts, output, form, heard)
    except FFmpegError as error:
        raise FilmError(f"its parts cannot be joined ({type(error).__name__})") from None
    finally:
        if heard is not None:
            heard.close()


def _join(parts: Sequence[Origin], output: Any, form: Form, heard: Sound | None) -> None:
    stream: Any = None
    latest: int | None = None
    for part in parts:
        with closing(open_film(part)) as source:
            video = source.streams.video[0]
            if stream is None:
                stream = output.add_stream_from_template(video)
                stream.time_base, stream.codec_context.framerate = form.time_base, form.rate
                look = _look(video)
                if heard is not None:
                    heard.join(output)
            elif _look(video) != look:
                raise DifferentError("its parts were encoded differently")
            for packet in _packets(source, video, form):
                if latest is not None and packet.dts <= latest:
                    packet.dts = latest + 1  # uneven times: the encoder's guess of when decoding begins
                latest = packet.dts
                packet.stream = stream
                for sound in heard.until(packet.dts * form.time_base) if heard is not None else ():
                    output.mux(sound)
                output.mux(packet)
    for sound in heard.until(None) if heard is not None else ():
        output.mux(sound)


def _packets(source: Any, video: Any, form: Form) -> Iterator[Any]:
    """The packets of a part, counted in the film's time base."""
    scale = video.time_base / form.time_base
    for packet in source.demux(video):
        if packet.size:
            pts, dts, duration = packet.pts, packet.dts, packet.duration
            packet.time_base = form.time_base
            packet.pts, packet.dts = round(pts * scale), round(dts * scale)
            packet.duration = round((duration or 0) * scale)
            yield packet


def _look(video: Any) -> tuple[Any, ...]:
    """What has to be the same in all parts."""
    context = video.codec_context
    return (
        context.name,
        context.width,
        context.height,
        bytes(context.extradata or b"") if context.name == "h264" else b"",
    )
