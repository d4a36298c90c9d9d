"""Films made for tests: a red square wanders over a textured ground, and a detector that finds red squares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from sfumato.models.detectors import Image, Smallest, Threshold
from sfumato.models.ensemble import Ensemble
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.masking import Masking, MaskName
from sfumato.schemas.policy import LawfulBasis, Policy

SIZE = (192, 128)
SIDE = 24
"""Of the square, in pixels."""
PLANTED = "CANARY-7f3a"
"""A text put wherever a file can hold one."""


def red(image: Image) -> np.ndarray:
    """Where a picture (BGR) is clearly red."""
    blue, green, red = (image[:, :, c].astype(int) for c in range(3))
    return (red > 140) & (blue < 100) & (green < 100)


class Squares:
    """A detector of red squares. ``blind``: pictures, by their number among those looked at, in which it finds none;
    ``broken``: those at which it fails."""

    name = DetectorName.CENTERFACE
    targets = frozenset({Target.FACE})
    threshold = Threshold(0.1)
    weights_sha256 = "0" * 64

    def __init__(self, blind: Iterable[int] = (), broken: Iterable[int] = ()) -> None:
        self._blind, self._broken = set(blind), set(broken)
        self.looked_at = 0

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        if len(pictures) > 1 and self._broken:
            raise RuntimeError("one of them is broken")
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: Image) -> tuple[Detection, ...]:
        number, self.looked_at = self.looked_at, self.looked_at + 1
        if number in self._broken:
            raise RuntimeError("broken")
        rows, columns = np.nonzero(red(picture))
        if number in self._blind or len(rows) < 20:
            return ()
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        return (Detection(target=Target.FACE, score=0.9, box=box),)


def ensemble(**keys: Any) -> Ensemble:
    return Ensemble([Squares(**keys)])


def policy(mask: MaskName = MaskName.SOLID, **keys: Any) -> Policy:
    return Policy(
        camera="files",
        version=3,
        controller="test",
        purpose="test",
        lawful_basis=LawfulBasis.CONSENT,
        dpia="none",
        retention_hours=1,
        **{"targets": {Target.FACE: Masking(mask=mask)}, **keys},
    )


def scene(number: int, size: tuple[int, int] = SIZE, square: bool = True, speed: float = 4.0) -> Image:
    """BGR; the upper left corner is white, so that a turned picture shows."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    ground = 90 + 40 * np.sin(columns / 9) + 30 * np.cos(rows / 7)
    image = np.repeat(ground[:, :, None], 3, axis=2).astype(np.uint8)
    image[: height // 8, : width // 8] = 235
    if square:
        x, y = 30 + round(number * speed) % (width - SIDE - 34), height // 2 - SIDE // 2
        image[y : y + SIDE, x : x + SIDE] = (30, 30, 220)
    return image


def write(
    path: Path,
    pictures: Iterable[Image],
    *,
    codec: str | None = None,
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    rate: int = 25,
    rotation: int = 0,
    aspect: Fraction | None = None,
    colours: tuple[int, int, int, int] | None = None,
    options: dict[str, str] | None = None,
    adorn: Callable[[Any], Callable[[], None]] | None = None,
) -> Path:
    """``colours``: matrix, range, primaries, transfer. ``adorn``: adds streams and metadata; what it returns is called
    once the header can be written."""
    codec = codec or ("libvpx-vp9" if path.suffix == ".webm" else "libx264")
    usual = {"libx264": {"preset": "veryfast", "crf": "12", "g": "12"}, "libvpx-vp9": {"crf": "20", "cpu-used": "8"}}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={**usual.get(codec, {}), **(options or {})})
        context = stream.codec_context
        stream.pix_fmt = pix_fmt
        stream.time_base = context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            context.sample_aspect_ratio = aspect
        if colours:
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = colours
        after = adorn(container) if adorn else None
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            keys = {}
            if colours:
                matrix = {1: 1, 9: 9}.get(colours[0], 5)
                keys = {"dst_colorspace": matrix, "dst_color_range": colours[1]}
            frame = frame.reformat(format=pix_fmt, **keys)
            frame.pts, frame.time_base = pts[number] if pts else number, time_base
            container.mux(stream.encode(frame))
            if after and number == 0:
                after()
        container.mux(stream.encode(None))
    return path


def read(path: Path) -> list[Image]:
    """What a player that knows the film's colours shows, not turned."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def tone(container: Any) -> Callable[[], None]:
    """Adds a second of sound."""
    name = "libopus" if "webm" in container.format.name else "aac"
    stream = container.add_stream(name, rate=48_000)

    def play() -> None:
        for start in range(0, 48_000, 960):
            wave = (np.sin(np.arange(start, start + 960) / 20) * 9000).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    return play
