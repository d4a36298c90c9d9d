"""Films and stores for the tests of uploads."""

from __future__ import annotations

import io

import av
import numpy as np

from sfumato.agents.database import Database
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.files.sealing import MasterKeys
from sfumato.agents.files.uploads import Uploads
from sfumato.agents.settings import Settings

CODECS = {"mp4": "libx264", "mov": "libx264", "matroska": "libx264", "webm": "libvpx-vp9"}


def film(pictures: int = 10, size: tuple[int, int] = (64, 48), form: str = "mp4", seed: int = 0) -> bytes:
    """A film of noise, so that it does not get small; of an MP4 the index is at the end."""
    file, draws = io.BytesIO(), np.random.default_rng(seed)
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(CODECS[form], rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for _ in range(pictures):
            picture = draws.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def box(kind: bytes, content: bytes) -> bytes:
    """A box of an MP4."""
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def make_uploads(settings: Settings) -> Uploads:
    """The uploads of these settings, with a database of their own."""
    database = Database(settings)
    database.migrate()
    return Uploads(settings, database, Blobs(settings), MasterKeys(settings))
