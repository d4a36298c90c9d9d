"""What the cameras of a drill show: a drawn street before which the marker wanders, as stills and as H.264."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from drills import marker
from drills.searching import Run
from sfumato.models import images
from sfumato.models.detectors import Image
from sfumato.models.encoders import TICKS, Encoder
from sfumato.schemas.policy import Codec, Output, Policy

WIDTH, HEIGHT = 192, 144
PICTURES = 48
"""Then they begin again."""
STILLS, VIDEO = ("north", "hall"), "west"
CAMERAS = (*STILLS, VIDEO)
"""Two send JPEG, one H.264 with a keyframe every 16 pictures; of two partitions each has one at least."""
FILMED = ("hall", VIDEO)
"""Their output is H.264, of one made of stills and one made of H.264; that of the others is JPEG."""
OUTPUT = Output(codec=Codec.H264)
FPS = 6.0


def pictures() -> list[Image]:
    """Shape (144, 192, 3), blue, green, red; the marker is in each."""
    noise = np.random.default_rng(7).normal(0, 12, (HEIGHT // 8, WIDTH // 8, 3))
    ground = 150 + cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    found = []
    for number in range(PICTURES):
        x, y = place(number)
        picture = np.clip(ground, 0, 255).astype(np.uint8)
        square = (slice(y, y + marker.SIDE), slice(x, x + marker.SIDE))
        picture[square] = marker.face(picture[square])
        found.append(picture)
    return found


def place(number: int) -> tuple[int, int]:
    """Upper left corner of the marker in a picture, in pixels: it goes round once."""
    turn = 2 * math.pi * number / PICTURES
    x = (WIDTH - marker.SIDE) * (0.5 + 0.35 * math.cos(turn))
    y = (HEIGHT - marker.SIDE) * (0.5 + 0.35 * math.sin(turn))
    return round(x), round(y)


def write(folder: Path, cameras: Sequence[str] = CAMERAS, fps: float = FPS) -> Path:
    """Write the pictures, and the ``cameras.toml`` that shows them for ever; returns its path."""
    shown = pictures()
    stills, looped = folder / "stills", folder / "film.mkv"
    stills.mkdir(parents=True)
    for number, picture in enumerate(shown):
        (stills / f"{number:03}.jpg").write_bytes(images.encode(picture, 92))
    film(looped, shown, fps)
    rows: list[dict[str, Any]] = [
        {"id": camera, "url": looped.as_uri(), "loop": True}
        if camera == VIDEO
        else {"id": camera, "url": f"stills://{stills}", "loop": True, "fps": fps}
        for camera in cameras
    ]
    table = folder / "cameras.toml"
    # A JSON string, number or truth value is a TOML one, too.
    table.write_text(
        "\n".join("[[camera]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in row.items()) for row in rows)
    )
    return table


def sent(table: Path) -> list[Image]:
    """Every picture that the cameras send, decoded as the worker would: what the search must find the marker in."""
    found = [images.decode(path.read_bytes(), "image/jpeg", max_pixels=10**6) for path in _stills(table)]
    with av.open(str(table.with_name("film.mkv"))) as container:
        return [*found, *(frame.to_ndarray(format="bgr24") for frame in container.decode(video=0))]


def filmed(shown: Sequence[Image]) -> list[Image]:
    """Pictures as they would come out of the cameras with H.264 output, were nothing masked."""
    encoder, decoder = Encoder("libx264", OUTPUT, WIDTH, HEIGHT, TICKS), Run()
    units = (encoder.encode(picture, round(number / FPS / TICKS)) for number, picture in enumerate(shown))
    return [picture for unit in units for picture in decoder.decode(unit.payload, unit.unit)[0]]


def policy(camera: str, **changes: Any) -> Policy:
    """Faces are masked by the default, ``solid``."""
    if camera in FILMED:
        changes = {"output": OUTPUT, **changes}
    return Policy.model_validate(
        {
            "camera": camera,
            "version": 1,
            "controller": "Drill",
            "purpose": "Show what a fault does",
            "lawful_basis": "legitimate_interests",
            "dpia": "none: drawn faces",
            "retention_hours": 24,
            "targets": {"face": {}},
            **changes,
        }
    )


def _stills(table: Path) -> list[Path]:
    return sorted(table.with_name("stills").glob("*.jpg"))


def film(path: Path, shown: Iterable[Image], fps: float) -> None:
    """Write H.264 with a keyframe every 16 pictures; the name's ending says in what container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "16", "g": "16", "bf": "0"}
        for picture in shown:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
