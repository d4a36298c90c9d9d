"""What content credentials cost: milliseconds to sign (and read again) a JPEG, and resident memory for a film.

The last line is one JSON object. ``film_megabytes`` is the film's size, ``film_memory_megabytes`` by how much the
process's peak grew while it was signed.
"""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from PIL import Image

from sfumato.agents.credentials import Credentials
from sfumato.agents.settings import Settings
from sfumato.schemas.credential import Statement

STATEMENT = Statement(masked={}, frames=1, fully_masked=0, detectors=())
ROUNDS = 30


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        credentials = Credentials(Settings(state_dir=folder))
        told = {f"jpeg_{width}x{height}_ms": _picture(credentials, width, height) for width, height in SIZES}
        print(json.dumps(told | _film(folder)))


SIZES = ((640, 480), (1920, 1080))


def _picture(credentials: Credentials, width: int, height: int) -> float:
    written = io.BytesIO()
    Image.effect_noise((width, height), 30).convert("RGB").save(written, "JPEG", quality=85)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        credentials.sign("image/jpeg", written.getvalue(), STATEMENT)
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken) * 1000, 2)


def _film(folder: Path) -> dict[str, float]:
    source, noise = folder / "film.mp4", np.random.default_rng(0)
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "qp": "2"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for _ in range(150):
            picture = noise.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # apart from the encoder's memory
        seconds, grown = pool.submit(_sign, folder, source).result()
    size = source.stat().st_size / 1e6
    return {"film_megabytes": round(size), "film_seconds": round(seconds, 2), "film_memory_megabytes": round(grown)}


def _sign(folder: Path, source: Path) -> tuple[float, float]:
    """Seconds, and by how many megabytes the process's peak of resident memory grew."""
    credentials = Credentials(Settings(state_dir=folder))
    before, began = _peak(), time.perf_counter()
    credentials.sign_file("video/mp4", source, folder / "signed.mp4", STATEMENT)
    return time.perf_counter() - began, _peak() - before


def _peak() -> float:
    """Of resident memory, in megabytes; ``ru_maxrss`` would be the starting process's where that is larger."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
