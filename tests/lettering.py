"""Licence plates and lettering drawn onto frames of real video, at a known place, size and angle."""

from __future__ import annotations

import av
import cv2
import numpy as np
from clips import clip
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from sfumato.models.detectors import Image
from sfumato.schemas.detection import Detection
from sfumato.schemas.masking import Masking

ASPECT = 520 / 110
"""Of a European plate."""


def street(width: int = 1280) -> Image:
    """A frame of the clip `bikes`, at that width, in pixels."""
    with av.open(str(clip("bikes"))) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="bgr24")
    return np.asarray(cv2.resize(frame, (width, width * frame.shape[0] // frame.shape[1])), np.uint8)


def plate(text: str = "B MW 5217", height: int = 220) -> Image:
    """A European plate: black on white, a blue band on its left."""
    width = round(height * ASPECT)
    drawn = PillowImage.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(drawn)
    draw.rectangle((0, 0, width - 1, height - 1), outline="black", width=height // 20)
    draw.rectangle((0, 0, width // 11, height), fill=(0, 51, 153))
    font = ImageFont.load_default(height * 0.8)
    draw.text((width * 0.54, height * 0.48), text, "black", font, anchor="mm")
    return np.asarray(drawn)[:, :, ::-1]


def paste(picture: Image, sign: Image, centre: tuple[int, int], height: int, angle: float = 0.0) -> np.ndarray:
    """Draws the sign, so many pixels high and turned by ``angle`` degrees; its corners, shape (4, 2)."""
    scale = height / sign.shape[0]
    small = cv2.resize(sign, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    turn = cv2.getRotationMatrix2D((small.shape[1] / 2, small.shape[0] / 2), angle, 1)
    turn[:, 2] += np.array(centre) - (small.shape[1] / 2, small.shape[0] / 2)
    size = picture.shape[1::-1]
    cover = cv2.warpAffine(np.ones(small.shape[:2], np.float32), turn, size)[..., np.newaxis]
    picture[:] = np.where(cover > 0.5, cv2.warpAffine(small, turn, size), picture)
    ends = np.array([[0, 0], [small.shape[1], 0], [small.shape[1], small.shape[0]], [0, small.shape[0]]])
    return ends @ turn[:, :2].T + turn[:, 2]


def hidden(found: tuple[Detection, ...], corners: np.ndarray, shape: tuple[int, ...], outlines: bool = False) -> float:
    """The share of the sign's area that lies in the boxes, grown as a policy's are by default, or in the outlines."""
    sign, mask = np.zeros(shape[:2], np.uint8), np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(sign, [corners.round().astype(np.int32)], 1)
    for detection in found:
        x0, y0, x1, y1 = detection.box
        dx, dy = Masking().dilation * (x1 - x0), Masking().dilation * (y1 - y0)
        x0, y0, x1, y1 = x0 - dx, y0 - dy, x1 + dx, y1 + dy
        drawn = detection.outline if outlines else ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        cv2.fillPoly(mask, [np.array(drawn).round().astype(np.int32)], 1)
    return float(mask[sign > 0].mean())
