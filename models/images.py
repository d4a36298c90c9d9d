"""Encoded pictures to pixels and back.

Decoders are strict: a truncated file is an error, never a half-grey picture. Nothing but pixels leaves:
EXIF, thumbnails, comments and colour profiles of the input are not copied.
simplejpeg for JPEG, Pillow for the rest (``docs/decisions/0005-jpeg.md``).
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache

import numpy as np
import simplejpeg
from PIL import Image as PillowImage
from PIL import ImageCms, ImageOps

from sfumato.models.detectors import Image
from sfumato.schemas.outcome import Reason

FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
"""Accepted content types and what Pillow calls the format."""
JPEG_LONGEST_SIDE = 65_500
"""libjpeg's limit, in pixels."""
GREY = 128

_ORIENTATION = 0x0112
"""The EXIF tag that says how to turn the picture."""


class ImageError(ValueError):
    """A picture that cannot be used; ``reason`` goes into its audit event."""

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


def inspect(payload: bytes, content_type: str, *, max_pixels: int) -> tuple[int, int]:
    """Width and height as the picture will be decoded, read from its header alone.

    Raises :class:`ImageError` for an empty, foreign or mislabelled payload and for one with more than
    ``max_pixels``, so that nothing large is allocated for a hostile header.
    """
    with _open(payload, content_type, max_pixels) as picture:
        width, height = picture.size
        return (height, width) if _orientation(picture) >= 5 else (width, height)


def decode(payload: bytes, content_type: str, *, max_pixels: int) -> Image:
    """The upright picture: uint8, (height, width, 3), BGR. Raises :class:`ImageError`."""
    try:
        with _open(payload, content_type, max_pixels) as picture:
            if picture.format == "JPEG" and picture.mode in ("RGB", "L") and _orientation(picture) == 1:
                return np.asarray(simplejpeg.decode_jpeg(payload, "BGR"), dtype=np.uint8)
            return _upright(picture)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise what they like on hostile input
        raise ImageError(Reason.UNDECODABLE, type(error).__name__) from None


def sniff(payload: bytes) -> str:
    """The content type that a file's first bytes tell. Raises :class:`ImageError` where it is none of ours."""
    if payload.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if payload.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP":
        return "image/webp"
    raise ImageError(Reason.UNSUPPORTED_CONTENT_TYPE, "neither JPEG, PNG nor WebP")


def decode_file(payload: bytes, content_type: str, *, max_pixels: int) -> Image:
    """As :func:`decode`, for pictures of any origin: colours are brought to sRGB. Of a JPEG that holds several
    pictures the first one is taken; an animated PNG or WebP is refused by :class:`ImageError`."""
    try:
        with _open(payload, content_type, max_pixels) as picture:
            if content_type != "image/jpeg" and getattr(picture, "is_animated", False):
                raise ImageError(Reason.UNSUPPORTED_CONTENT_TYPE, "is animated; make a film of it first")
            profile = picture.info.get("icc_profile")
            if profile is None:
                return decode(payload, content_type, max_pixels=max_pixels)
            return _upright(picture, profile)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise what they like on hostile input
        raise ImageError(Reason.UNDECODABLE, type(error).__name__) from None


def encode_as(image: Image, content_type: str, quality: int) -> bytes:
    """The picture in one of :data:`FORMATS`, without metadata; ``quality`` 1 to 100, of JPEG and WebP."""
    if content_type == "image/jpeg":
        return encode(image, quality)
    written = io.BytesIO()
    rgb = PillowImage.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    rgb.save(written, FORMATS[content_type], quality=quality)
    return written.getvalue()


def encode(image: Image, quality: int) -> bytes:
    """A baseline JPEG with 4:2:0 chroma, without metadata."""
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "BGR", "420")
    return encoded


def resize(image: Image, width: int, height: int) -> Image:
    """The picture at another size, in pixels: by area averaging where it shrinks, else bilinear."""
    if image.shape[:2] == (height, width):
        return image
    import cv2  # 17 MB that an ingestor needs only where it shrinks pictures

    larger = height * width > image.shape[0] * image.shape[1]
    resized: Image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR if larger else cv2.INTER_AREA)
    return resized


@lru_cache(64)
def grey(width: int, height: int) -> bytes:
    """The fully masked frame: one JPEG in uniform grey. It is made without looking at the input."""
    return encode(np.full((height, width, 3), GREY, np.uint8), 75)


def _open(payload: bytes, content_type: str, max_pixels: int) -> PillowImage.Image:
    if not payload:
        raise ImageError(Reason.EMPTY, "no bytes")
    if content_type not in FORMATS:
        raise ImageError(Reason.UNSUPPORTED_CONTENT_TYPE, f"not one of {', '.join(FORMATS)}")
    try:
        with warnings.catch_warnings():
            # Our own limit follows; Pillow's warning would only repeat it.
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            picture = PillowImage.open(io.BytesIO(payload), formats=[FORMATS[content_type]])
    except PillowImage.DecompressionBombError:
        raise ImageError(Reason.TOO_LARGE, f"more than {max_pixels} pixels") from None
    except Exception as error:  # noqa: BLE001 - decoders raise what they like on hostile input
        raise ImageError(Reason.UNDECODABLE, type(error).__name__) from None
    width, height = picture.size
    if width * height > max_pixels or max(width, height) > JPEG_LONGEST_SIDE:
        picture.close()
        raise ImageError(Reason.TOO_LARGE, f"{width}x{height}: more than {max_pixels} pixels or too long a side")
    return picture


def _upright(picture: PillowImage.Image, profile: bytes | None = None) -> Image:
    """All of it to upright BGR. Transparent parts become white: what they hide is not shown, and not kept."""
    opaque = _opaque(ImageOps.exif_transpose(picture))
    rgb = opaque.convert("RGB") if profile is None else _to_srgb(opaque, profile)
    return np.ascontiguousarray(np.asarray(rgb)[:, :, ::-1])


def _opaque(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode.startswith("I;16"):  # Pillow would clip its values instead of scaling them
        return PillowImage.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    coloured = picture.convert("RGBA")
    return PillowImage.alpha_composite(PillowImage.new("RGBA", picture.size, "white"), coloured).convert("RGB")


def _to_srgb(picture: PillowImage.Image, profile: bytes) -> PillowImage.Image:
    """By the picture's colour profile; one that does not fit or cannot be read is left out of account."""
    if picture.mode == "P":
        picture = picture.convert("RGB")
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture.convert("RGB")
    return picture.convert("RGB") if converted is None else converted


def _orientation(picture: PillowImage.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - broken EXIF: the picture is taken as it lies
        return 1
