"""The cameras to read: ``cameras.toml``, or ``name=url`` on the command line. See docs/cameras.md."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sfumato.agents.sources import SOURCES
from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import CAMERA_ID


class CameraError(ValueError):
    """The list of cameras is not valid; the text names the camera and the key, never a URL's credentials."""


class Pace(StrEnum):
    REAL_TIME = "real-time"
    FAST = "fast"


class Camera(BaseModel):
    """One ``[[camera]]`` table.

    ``fps``: at most this many frames per second are taken. ``long_side``: pictures are shrunk to it, in pixels,
    which costs an encoding. ``loop`` and ``pace`` apply to files and folders of stills.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=f"^{CAMERA_ID.pattern}$")]
    url: Annotated[str, Field(repr=False)]
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    long_side: Annotated[int, Field(ge=64, le=8192)] | None = None
    quality: Annotated[int, Field(ge=1, le=100)] = 85
    loop: bool = False
    pace: Pace = Pace.REAL_TIME

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        scheme = urlsplit(url).scheme.lower()
        if scheme not in SOURCES:
            raise ValueError(f"scheme {scheme!r} is none of {', '.join(SOURCES)}")
        return url


def read_file(path: Path) -> list[Camera]:
    """The cameras of a TOML file with one ``[[camera]]`` table each; :class:`CameraError` names what is wrong."""
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CameraError(f"{path}: {error}") from None
    if unknown := document.keys() - {"camera"}:
        raise CameraError(f"{path}: unknown key {', '.join(sorted(unknown))}; known: [[camera]]")
    rows = document.get("camera")
    if not isinstance(rows, list) or not rows:
        raise CameraError(f"{path}: holds no [[camera]]")
    return _distinct([_read_row(f"{path}: camera {number}", row) for number, row in enumerate(rows, 1)])


def read_pairs(pairs: list[str]) -> list[Camera]:
    """The cameras given as ``name=url``."""
    rows = [dict(zip(("id", "url"), pair.split("=", 1), strict=False)) for pair in pairs]
    return _distinct([_read_row(f"--camera {row['id']}", row) for row in rows])


def _read_row(where: str, row: dict[str, Any]) -> Camera:
    try:
        return Camera.model_validate(row)
    except ValidationError as error:
        name = f" ({row['id']})" if isinstance(row, dict) and isinstance(row.get("id"), str) else ""
        raise CameraError(f"{where}{name}: {summary(error)}") from None


def _distinct(cameras: list[Camera]) -> list[Camera]:
    ids = [camera.id for camera in cameras]
    for camera in ids:
        if ids.count(camera) > 1:
            raise CameraError(f"camera id {camera!r} is given twice")
    return cameras
