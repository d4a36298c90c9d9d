"""Pictures, and bodies that mean harm, with what they must be answered with."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

SECRET = b"planted-0451"


def encoded(image: np.ndarray, kind: str = "PNG", **keys: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[:, :, ::-1] if image.ndim == 3 else image).save(file, kind, **keys)  # type: ignore[arg-type]
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of few bytes that says 30000x30000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a.txt", SECRET)
    return file.getvalue()


def hostile(face: np.ndarray) -> dict[str, tuple[bytes, str, int]]:
    """By name: a body, its content type, and the status it is answered with."""
    jpeg, png, webp = (encoded(face, kind) for kind in ("JPEG", "PNG", "WEBP"))
    frames = [Image.fromarray(np.roll(face, n * 9, 1)) for n in range(3)]
    animated = {}
    for kind in ("WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        animated[kind] = file.getvalue()
    script = b"<script>" + SECRET + b"</script>"
    comment = b"\xff\xfe" + struct.pack(">H", len(script) + 2) + script
    return {
        "nothing": (b"", "image/jpeg", 400),
        "bomb": (bomb(), "image/png", 413),
        "too many pixels": (encoded(np.zeros((1001, 1000, 3), np.uint8)), "image/png", 413),
        "too many bytes": (jpeg + bytes(3_000_000), "image/jpeg", 413),
        "cut short": (jpeg[: len(jpeg) // 2], "image/jpeg", 422),
        "cut short png": (png[: len(png) // 2], "image/png", 422),
        "cut short webp": (webp[: len(webp) // 2], "image/webp", 422),
        "head alone": (jpeg[:30], "image/jpeg", 422),
        "animated webp": (animated["WEBP"], "image/webp", 422),
        "animated png": (animated["PNG"], "image/png", 422),
        "page in a comment": (jpeg[:2] + comment + jpeg[2:], "image/jpeg", 422),
        "page behind": (png + script, "image/png", 422),
        "bytes behind": (png + SECRET, "image/png", 422),
        "bytes behind webp": (webp + SECRET, "image/webp", 422),
        "archive behind": (jpeg + archive(), "image/jpeg", 422),
        "gif": (b"GIF89a" + bytes(40), "image/jpeg", 415),
        "gif that is a page": (b"GIF89a=1;" + script, "image/png", 415),
        "text": (SECRET * 50, "image/webp", 415),
        "png called jpeg": (png, "image/jpeg", 415),
        "another type": (jpeg, "image/gif", 415),
        "no type": (jpeg, "", 415),
        "many scans": (jpeg[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 300 + b"\xff\xd9", "image/jpeg", 422),
        "no boundary": (jpeg, "multipart/form-data", 422),
        "broken form": (b"--x\r\n\r\n", "multipart/form-data; boundary=x", 422),
    }
