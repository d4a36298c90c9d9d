"""Videos whose pictures tell their number, a camera that reads them, and an ordinary decoder for what it hands on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from sfumato.agents.cameras import Camera
from sfumato.agents.pictures import Loss, Picture
from sfumato.agents.sources import Context, open_source
from sfumato.models import images
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.outcome import Reason
from sfumato.schemas.unit import CODECS, RawUnit

FPS = 10
QUIET = {"libx265": {"x265-params": "log-level=none"}}
MOVING = [number % 20 for number in range(50)]
STREAMS = {
    "h264": ("libx264", {"bf": "0", "g": "10", "sc_threshold": "0"}),
    "h264 with B-frames": ("libx264", {"bf": "3", "g": "10", "sc_threshold": "0"}),
    "h264 with an open GOP": ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}),
    "h265": ("libx265", {"x265-params": "log-level=none:bframes=0:keyint=10:scenecut=0"}),
    "h265 with an open GOP": ("libx265", {"x265-params": "log-level=none:open-gop=1:bframes=3:keyint=10:scenecut=0"}),
}


def numbered(number: int, width: int = 128, height: int = 96) -> np.ndarray:
    """A picture whose brightness tells its number, with a black upper left quarter."""
    image = np.full((height, width, 3), 40 + 7 * number, np.uint8)
    image[: height // 2, : width // 2] = 0
    return image


def number_in(image: np.ndarray) -> int:
    return round((float(image[-8:, -8:].mean()) - 38.5) / 7)  # 4:2:0 darkens by some 3


def jpeg(number: int) -> bytes:
    return images.encode(numbered(number), 90)


def write_video(
    path: Path, numbers: int | Iterable[int], codec: str = "libx264", rotation: int = 0, **options: str
) -> Path:
    """``size``, as 64x48, is no option of the codec."""
    width, height = map(int, options.pop("size", "128x96").split("x"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={**QUIET.get(codec, {}), **options})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(numbers) if isinstance(numbers, int) else numbers:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number, width, height), format="bgr24")))
        container.mux(stream.encode())
    return path


def film(path: Path, name: str, numbers: Iterable[int] = MOVING) -> Path:
    codec, options = STREAMS[name]
    return write_video(path, numbers, codec, **options)


def packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def pictures_in(path: Path) -> list[np.ndarray]:
    """What an ordinary player shows of a file, untouched by conversion or rotation."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


class Reader:
    """A camera opened, with its skipped frames counted."""

    def __init__(self, url: str, **keys: Any) -> None:
        self.stopping = threading.Event()
        self.skipped = 0
        self.camera = Camera(id="a", url=url, **keys)
        self.context = Context(self.camera, self.stopping, self._skip)

    def _skip(self) -> None:
        self.skipped += 1

    def __iter__(self) -> Iterator[Any]:
        return open_source(self.context)

    def pictures(self) -> list[Picture]:
        found = list(self)
        assert all(isinstance(item, Picture) for item in found), losses(found)
        return found


def losses(items: Iterable[Picture | Loss]) -> list[Reason]:
    return [item.reason for item in items if isinstance(item, Loss)]


def kept(items: Iterable[Picture | Loss]) -> list[Picture]:
    return [item for item in items if isinstance(item, Picture)]


def decoded(units: Sequence[Picture | RawFrame], *, strict: bool = True) -> list[av.VideoFrame]:
    """What ordinary decoders make of access units, in order of presentation; after a gap another one begins.
    ``strict``: each is shown, undamaged, with the times of its unit; those to be discarded are not shown."""
    frames: list[av.VideoFrame] = []
    decoder = None
    for unit in units:
        assert unit.unit is not None
        if decoder is None or unit.unit.restart:
            frames += decoder.decode(None) if decoder else []
            decoder = av.CodecContext.create(CODECS[unit.content_type], "r")
        packet = av.Packet(unit.payload)
        packet.pts, packet.dts, packet.time_base = unit.unit.pts, unit.unit.dts, unit.unit.time_base
        frames += decoder.decode(packet)
    frames += decoder.decode(None)
    hidden = {unit.unit.pts for unit in units if unit.unit and unit.unit.discard}
    if strict:
        assert not any(frame.is_corrupt for frame in frames)
        there, wanted = {frame.pts for frame in frames}, {unit.unit.pts for unit in units if unit.unit}
        assert (there - wanted, wanted - there, len(frames)) == (set(), set(), len(units))
        assert [frame.pts for frame in frames] == sorted(frame.pts for frame in frames)
    return [frame for frame in frames if frame.pts not in hidden]


def shown(items: Sequence[Picture | RawFrame]) -> list[np.ndarray]:
    """The pictures in blue, green, red, as a viewer sees them, whether they are stills or access units."""
    if items[0].content_type in CODECS:
        return [frame.to_ndarray(format="bgr24") for frame in decoded(items)]
    return [images.decode(item.payload, item.content_type, max_pixels=10**8) for item in items]


def numbers_in(items: Sequence[Picture | RawFrame]) -> list[int]:
    return [number_in(image) for image in shown(items)]


def units_of(items: Sequence[Picture | Loss]) -> list[RawUnit]:
    return [item.unit for item in items if isinstance(item, Picture) and item.unit]
