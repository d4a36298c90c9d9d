"""Pictures of a film as they are encoded: 8-bit 4:2:0 planes, with what their numbers mean.

What is not masked keeps its numbers: only the regions that a mask has changed are converted to blue, green, red and
back. Nothing but the planes is carried over, so no caption, user data or thumbnail of the input's stream can be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from sfumato.models.detectors import Image

Plane = NDArray[np.uint8]

RGB, BT709, UNSPECIFIED, FULL = 0, 1, 2, 2
"""Matrix codes of ITU-T H.273, and FFmpeg's code of the full range."""
MATRICES = {BT709: Colorspace.ITU709, 4: Colorspace.FCC, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020}
"""By H.273's matrix code what swscale calls it; all others, unspecified too, are read as BT.601."""
PRECISE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
CLOSED = 9
"""Gaps in a changed region narrower than this, in chroma samples, belong to it."""


@dataclass(frozen=True, slots=True)
class Colours:
    """FFmpeg's codes of matrix, range, primaries and transfer."""

    matrix: int
    range: int
    primaries: int
    transfer: int

    @property
    def conversion(self) -> tuple[Colorspace, ColorRange]:
        matrix = MATRICES.get(self.matrix, Colorspace.ITU601)
        return matrix, ColorRange.JPEG if self.range == FULL else ColorRange.MPEG


@dataclass(frozen=True, slots=True)
class Planes:
    """``y``: uint8, (height, width), both even; ``u`` and ``v``: half as high and wide. Upright."""

    y: Plane
    u: Plane
    v: Plane
    colours: Colours

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.y.shape[1], self.y.shape[0]


def from_frame(frame: av.VideoFrame) -> Planes:
    """A decoded picture, turned upright; deeper than 8 bits or finer than 4:2:0 is reduced to that. An odd side loses
    its last column or row. Raises what FFmpeg raises for a pixel format that it cannot convert."""
    colours = Colours(frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    name = frame.format.name
    if name.startswith("yuvj"):
        colours = replace(colours, range=FULL)
    if name not in ("yuv420p", "yuvj420p"):
        frame, colours = _reduced(frame, colours)
    width, height = frame.width - frame.width % 2, frame.height - frame.height % 2
    quarters = round(frame.rotation / 90) % 4
    shapes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    y, u, v = (
        np.ascontiguousarray(np.rot90(_rows(plane)[: shape[0], : shape[1]], quarters)).copy()
        for plane, shape in zip(frame.planes, shapes, strict=True)
    )
    return Planes(y, u, v, colours)


def to_frame(planes: Planes, size: tuple[int, int] | None = None) -> av.VideoFrame:
    """A frame of these planes alone, scaled to ``size`` (width and height) where that differs."""
    width, height = planes.size
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, rows in zip(frame.planes, (planes.y, planes.u, planes.v), strict=True):
        _rows(plane)[: rows.shape[0], : rows.shape[1]] = rows
    _tag(frame, planes.colours)
    if size is not None and size != planes.size:
        matrix, levels = planes.colours.conversion
        frame = frame.reformat(
            *size,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=levels,
            dst_color_range=levels,
            threads=1,
        )
        _tag(frame, planes.colours)
    return frame


def to_bgr(planes: Planes, size: tuple[int, int] | None = None) -> Image:
    """The picture as detectors and masks take it; shrunk by area averaging to ``size`` where that is given."""
    matrix, levels = planes.colours.conversion
    width, height = size or planes.size
    frame = to_frame(planes).reformat(
        width,
        height,
        format="bgr24",
        src_colorspace=matrix,
        src_color_range=levels,
        interpolation=Interpolation.AREA if size else PRECISE,
        threads=1,
    )
    return np.asarray(frame.to_ndarray(), dtype=np.uint8)


def filled(size: tuple[int, int], level: int, colours: Colours) -> Planes:
    """A picture in uniform grey."""
    width, height = size
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    return Planes(np.full((height, width), level, np.uint8), chroma, chroma.copy(), colours)


def blend(planes: Planes, before: Image, after: Image) -> Planes:
    """The picture with what differs between ``before`` (its :func:`to_bgr`) and ``after`` taken from ``after``.

    Taken are whole rectangles around what differs, so that no pixel inside a mask keeps its number for having had the
    mask's colour by chance.
    """
    regions = _regions(before, after)
    if not regions:
        return planes
    matrix, levels = planes.colours.conversion
    masked = av.VideoFrame.from_ndarray(np.ascontiguousarray(after), format="bgr24").reformat(
        format="yuv420p", dst_colorspace=matrix, dst_color_range=levels, interpolation=PRECISE, threads=1
    )
    blended = Planes(planes.y.copy(), planes.u.copy(), planes.v.copy(), planes.colours)
    new_y, new_u, new_v = (_rows(plane) for plane in masked.planes)
    for x, y, width, height in regions:
        chroma = (slice(y, y + height), slice(x, x + width))
        luma = (slice(2 * y, 2 * (y + height)), slice(2 * x, 2 * (x + width)))
        blended.y[luma], blended.u[chroma], blended.v[chroma] = new_y[luma], new_u[chroma], new_v[chroma]
    return blended


def _regions(before: Image, after: Image) -> list[tuple[int, int, int, int]]:
    """Rectangles x, y, width, height, in chroma samples, around all that differs."""
    blue, green, red = cv2.split(cv2.absdiff(before, after))
    differs = blue | green | red
    pairs = differs[0::2] | differs[1::2]
    coarse = ((pairs[:, 0::2] | pairs[:, 1::2]) > 0).astype(np.uint8)
    if not coarse.any():
        return []
    closed = cv2.morphologyEx(coarse, cv2.MORPH_CLOSE, np.ones((CLOSED, CLOSED), np.uint8))
    _, _, found, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    return [(int(x), int(y), int(width), int(height)) for x, y, width, height, _ in found[1:]]


def _reduced(frame: av.VideoFrame, colours: Colours) -> tuple[av.VideoFrame, Colours]:
    if frame.format.is_rgb or colours.matrix == RGB:
        colours = replace(colours, matrix=BT709, range=int(ColorRange.MPEG))
        matrix, levels = colours.conversion
        arguments = {"dst_colorspace": matrix, "dst_color_range": levels}
    else:
        matrix, levels = colours.conversion
        arguments = {
            "src_colorspace": matrix,
            "dst_colorspace": matrix,
            "src_color_range": levels,
            "dst_color_range": levels,
        }
    return frame.reformat(format="yuv420p", threads=1, **arguments), colours


def _tag(frame: av.VideoFrame, colours: Colours) -> None:
    frame.colorspace, frame.color_range = colours.matrix, colours.range
    frame.color_primaries, frame.color_trc = colours.primaries, colours.transfer


def _rows(plane: Any) -> Plane:
    """A plane's memory, as rows with their padding."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
