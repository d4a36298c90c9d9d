"""The access unit: one coded picture of an H.264 or H.265 stream, as it travels on the frame topics.

The value is Annex B (start codes), with the parameter sets in front of each keyframe, so that a decoder without any
other knowledge may begin there. Content types use GStreamer's terms for that form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError

H264 = "video/h264; stream-format=byte-stream; alignment=au"
H265 = "video/h265; stream-format=byte-stream; alignment=au"
CODECS = {H264: "h264", H265: "hevc"}
"""Content types of access units, and FFmpeg's names of their codecs."""

_STREAM = re.compile(r"[0-9a-f]{16,64}")
_TIME_BASE = re.compile(r"([1-9][0-9]{0,9})/([1-9][0-9]{0,9})")


@dataclass(frozen=True, slots=True)
class Unit:
    """``pts`` counts ``time_base`` seconds and runs on through an epoch. A ``keyframe`` needs no unit before it."""

    pts: int
    time_base: Fraction
    keyframe: bool

    def extensions(self) -> dict[str, str]:
        return {
            "pts": str(self.pts),
            "timebase": f"{self.time_base.numerator}/{self.time_base.denominator}",
            "keyframe": _flag(self.keyframe),
        }

    @property
    def seconds(self) -> float:
        return float(self.pts * self.time_base)


@dataclass(frozen=True, slots=True)
class RawUnit(Unit):
    """A unit as the camera sent it. ``dts``: only where it differs from ``pts``. ``discard``: other units need it, but
    its picture is not to be published (FFmpeg's AV_PKT_FLAG_DISCARD). ``rotation``: degrees, anticlockwise, by which
    the decoded picture must be turned to stand upright; a multiple of 90. ``restart``: a keyframe that does not go on
    from the unit before it (one is missing, or another connection begins): empty the decoder and begin anew with it,
    since an H.264 decoder that does not know of a gap may withhold pictures that come after it."""

    dts: int | None = None
    discard: bool = False
    rotation: int = 0
    restart: bool = False

    def extensions(self) -> dict[str, str]:
        extensions = Unit.extensions(self)
        if self.dts is not None:
            extensions["dts"] = str(self.dts)
        if self.discard:
            extensions["discard"] = _flag(True)
        if self.rotation:
            extensions["rotation"] = str(self.rotation)
        if self.restart:
            extensions["restart"] = _flag(True)
        return extensions

    @classmethod
    def from_event(cls, event: CloudEvent) -> Self:
        """:class:`EnvelopeError` where a header breaks the contract."""
        rotation = event.integer("rotation", largest=270) if "rotation" in event.extensions else 0
        if rotation % 90:
            raise EnvelopeError("ce_rotation", "not 0, 90, 180 or 270")
        return cls(
            pts=event.signed("pts"),
            time_base=_time_base(event),
            keyframe=_boolean(event, "keyframe"),
            dts=event.signed("dts") if "dts" in event.extensions else None,
            discard="discard" in event.extensions and _boolean(event, "discard"),
            rotation=rotation,
            restart="restart" in event.extensions and _boolean(event, "restart"),
        )


@dataclass(frozen=True, slots=True)
class AnonymizedUnit(Unit):
    """A unit that the anonymizer encoded. ``stream`` names the encoder's run, which begins with a keyframe;
    ``number`` counts the units of that run from 0. Units of different streams never refer to one another."""

    stream: str
    number: int

    def extensions(self) -> dict[str, str]:
        return {**Unit.extensions(self), "stream": self.stream, "unit": str(self.number)}

    @classmethod
    def from_event(cls, event: CloudEvent) -> Self:
        """:class:`EnvelopeError` where a header breaks the contract."""
        stream = event.extension("stream")
        if not _STREAM.fullmatch(stream):
            raise EnvelopeError("ce_stream", f"does not match {_STREAM.pattern}")
        return cls(
            pts=event.signed("pts"),
            time_base=_time_base(event),
            keyframe=_boolean(event, "keyframe"),
            stream=stream,
            number=event.integer("unit"),
        )


def _time_base(event: CloudEvent) -> Fraction:
    matched = _TIME_BASE.fullmatch(event.extension("timebase"))
    if matched is None:
        raise EnvelopeError("ce_timebase", "not a fraction of positive integers, as 1/90000")
    return Fraction(int(matched[1]), int(matched[2]))


def _boolean(event: CloudEvent, name: str) -> bool:
    text = event.extension(name)
    if text not in ("true", "false"):
        raise EnvelopeError(f"ce_{name}", "not true or false")
    return text == "true"


def _flag(value: bool) -> str:
    return "true" if value else "false"
