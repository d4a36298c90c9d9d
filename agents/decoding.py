"""H.264 of ``frames.anonymized`` to pictures, a unit at a time."""

from __future__ import annotations

from typing import Generic, TypeVar

import av
from av.codec.context import Flags
from av.error import FFmpegError

from sfumato.agents.runs import Following
from sfumato.schemas.frame import AnonymizedFrame

T = TypeVar("T")


class UndecodableError(ValueError):
    """A unit without a picture that can be trusted: the decoder refused it, or what it refers to is missing."""


class UnitDecoder(Generic[T]):
    """Decodes one run after the other, each from a keyframe on. Not thread-safe.

    Each unit comes with a mark of the caller's, which its picture gets back.
    """

    def __init__(self) -> None:
        self._following = Following()
        self._stream = ""
        self._context: av.VideoCodecContext | None = None
        self._marks: dict[int, T] = {}
        self._count = 0

    def decode(self, frame: AnonymizedFrame, mark: T) -> list[tuple[T, av.VideoFrame]]:
        """The pictures that this unit completes. :class:`UndecodableError` until the next keyframe."""
        unit = frame.unit
        if unit is None or not self._following.admits(unit):
            raise UndecodableError("not the next unit of a run that was joined at a keyframe")
        pictures: list[tuple[T, av.VideoFrame]] = []
        if self._context is None or unit.stream != self._stream:
            pictures = self.flush()
            self._context, self._stream = _open(), unit.stream
        packet = av.Packet(frame.payload)
        packet.pts = packet.dts = self._count
        self._marks[self._count] = mark
        self._count += 1
        try:
            return pictures + self._marked(self._context.decode(packet))
        except (FFmpegError, UndecodableError) as error:
            self._lose()
            raise UndecodableError(str(error)) from None

    def flush(self) -> list[tuple[T, av.VideoFrame]]:
        """The pictures that the decoder has held back; it then needs a keyframe of a new run."""
        if self._context is None:
            return []
        try:
            return self._marked(self._context.decode(None))
        except (FFmpegError, UndecodableError):
            return []
        finally:
            self._context = None
            self._marks.clear()

    def _marked(self, pictures: list[av.VideoFrame]) -> list[tuple[T, av.VideoFrame]]:
        if any(picture.is_corrupt for picture in pictures):  # the decoder has made up what is missing
            raise UndecodableError("damaged")
        return [(self._marks.pop(picture.pts), picture) for picture in pictures if picture.pts in self._marks]

    def _lose(self) -> None:
        self._following.lose()
        self._context = None
        self._marks.clear()


def _open() -> av.VideoCodecContext:
    context = av.CodecContext.create("h264", "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1  # frame threads would hold pictures back
    context.flags |= Flags.low_delay
    return context
