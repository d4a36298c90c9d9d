"""Decoding is strict, bounded and leaves metadata behind."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PillowImage

from sfumato.models import images
from sfumato.models.images import ImageError
from sfumato.schemas.outcome import Reason

LIMIT = 1_000_000


def encoded(format: str, size=(64, 48), mode="RGB", **options) -> bytes:
    rows = np.linspace(0, 255, size[1], dtype=np.uint8)[:, None, None] * np.ones((1, size[0], 3), np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(rows.astype(np.uint8)).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100)))


@pytest.mark.parametrize(
    ("format", "content_type", "mode"),
    [
        ("JPEG", "image/jpeg", "RGB"),
        ("JPEG", "image/jpeg", "L"),
        ("JPEG", "image/jpeg", "CMYK"),
        ("PNG", "image/png", "RGB"),
        ("PNG", "image/png", "RGBA"),
        ("PNG", "image/png", "P"),
        ("WEBP", "image/webp", "RGB"),
    ],
)
def test_decodes_to_writable_bgr(format, content_type, mode):
    payload = encoded(format, mode=mode)
    assert images.inspect(payload, content_type, max_pixels=LIMIT) == (64, 48)
    image = images.decode(payload, content_type, max_pixels=LIMIT)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    image[0, 0] = 0  # masks write in place
    assert image[:4].mean() < 40 < 200 < image[-4:].mean()


def test_channels_are_blue_green_red():
    buffer = io.BytesIO()
    PillowImage.new("RGB", (32, 32), (250, 10, 10)).save(buffer, "PNG")
    assert tuple(images.decode(buffer.getvalue(), "image/png", max_pixels=LIMIT)[5, 5]) == (10, 10, 250)


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation_turns_the_picture_upright(orientation):
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    payload = encoded("JPEG", exif=exif)
    size = {3: (64, 48), 6: (48, 64)}[orientation]
    assert images.inspect(payload, "image/jpeg", max_pixels=LIMIT) == size
    image = images.decode(payload, "image/jpeg", max_pixels=LIMIT)
    assert image.shape == (size[1], size[0], 3)
    bright = image[:4] if orientation == 3 else image[:, :4]  # the bright bottom row moved there
    assert bright.mean() > 200


@pytest.mark.parametrize(
    ("payload", "content_type", "reason"),
    [
        (b"", "image/jpeg", Reason.EMPTY),
        (b"random bytes" * 50, "image/jpeg", Reason.UNDECODABLE),
        (encoded("JPEG"), "image/png", Reason.UNDECODABLE),
        (encoded("JPEG"), "video/h264", Reason.UNSUPPORTED_CONTENT_TYPE),
        (encoded("JPEG", size=(640, 480))[:-200], "image/jpeg", Reason.UNDECODABLE),
        (encoded("PNG", size=(640, 480))[:-200], "image/png", Reason.UNDECODABLE),
        (encoded("WEBP", size=(640, 480))[:-20], "image/webp", Reason.UNDECODABLE),
        (png_header(20_000, 20_000), "image/png", Reason.TOO_LARGE),
        (png_header(900_000, 1), "image/png", Reason.TOO_LARGE),
        (png_header(100, 100), "image/png", Reason.UNDECODABLE),
        (encoded("GIF"), "image/jpeg", Reason.UNDECODABLE),
    ],
)
def test_unusable_pictures_are_refused_with_a_reason(payload, content_type, reason):
    with pytest.raises(ImageError) as caught:
        images.decode(payload, content_type, max_pixels=LIMIT)
    assert caught.value.reason is reason


def test_output_carries_no_metadata():
    exif = PillowImage.Exif()
    exif[0x010F] = "SECRET-MAKER"
    payload = encoded("JPEG", exif=exif, comment=b"SECRET-COMMENT")
    assert b"SECRET" in payload
    output = images.encode(images.decode(payload, "image/jpeg", max_pixels=LIMIT), 85)
    assert b"SECRET" not in output
    assert not PillowImage.open(io.BytesIO(output)).getexif()


def test_the_fully_masked_frame_is_uniform():
    image = images.decode(images.grey(100, 40), "image/jpeg", max_pixels=LIMIT)
    assert image.shape == (40, 100, 3)
    assert np.ptp(image) <= 1
