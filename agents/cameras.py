"""The cameras to read: ``cameras.toml``, or ``name=url`` on the command line. See docs/cameras.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sfumato.agents import toml_files
from sfumato.agents.sources import LOCAL_SCHEMES, SOURCES
from sfumato.agents.toml_files import TomlFileError
from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import CAMERA_ID
from sfumato.schemas.fault import Fault


class CameraError(Fault, ValueError):
    """The list of cameras is not valid; the text names the camera and the key, never a URL or a part of one."""


class Pace(StrEnum):
    REAL_TIME = "real-time"
    FAST = "fast"


class Camera(BaseModel):
    """One ``[[camera]]`` table.

    ``fps``: at most this many frames per second are taken. ``long_side``: pictures are shrunk to it, in pixels,
    which costs an encoding. ``quality``: of the JPEG, where one is made here. ``remux``: access units of H.264 and
    H.265 are passed on as they are; otherwise they are decoded and encoded as JPEG. ``loop`` and ``pace`` apply to
    files and folders of stills.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, Field(pattern=f"^{CAMERA_ID.pattern}$")]
    url: Annotated[str, Field(repr=False)]
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    long_side: Annotated[int, Field(ge=64, le=8192)] | None = None
    quality: Annotated[int, Field(ge=1, le=100)] = 85
    remux: bool = True
    loop: bool = False
    pace: Annotated[Pace, Field(strict=False)] = Pace.REAL_TIME

    @field_validator("url")
    @classmethod
    def _readable(cls, url: str) -> str:
        """Refuse what would be misread: a password with an unescaped / looks like a host and a path."""
        known = f"known schemes: {', '.join(SOURCES)}"
        scheme, separator, _ = url.partition(":")
        scheme = scheme.lower()
        if not separator or scheme not in SOURCES:
            # The scheme of "admin:secret@host" is a user's name, so only what is followed by // is quoted.
            named = f"{scheme!r} is unknown" if re.match(r"[A-Za-z][\w+.-]*://", url) else "it has no scheme"
            raise ValueError(f"{named}; {known}")
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError("not a URL; percent-encode / ? # @ : in user name and password") from None
        if scheme in LOCAL_SCHEMES:
            if parts.netloc or not parts.path:
                raise ValueError(f"wants a path, as {scheme}:///folder/name")
        elif not host:
            raise ValueError("names no host")
        elif "@" in parts.path + parts.query + parts.fragment:
            raise ValueError("has an @ after the host; percent-encode it (%40), and / ? # in user name and password")
        return url


def read_file(path: Path) -> list[Camera]:
    """The cameras of a TOML file with one ``[[camera]]`` table each; :class:`CameraError` names what is wrong."""
    try:
        tables = toml_files.tables(path, "camera")
    except TomlFileError as error:
        raise CameraError(f"{path}: {error}") from None
    return _distinct([_read_row(where, table) for where, table in tables])


def read_pairs(pairs: Sequence[str]) -> list[Camera]:
    """The cameras given as ``name=url``."""
    cameras = []
    for number, pair in enumerate(pairs, 1):
        name, separator, url = pair.partition("=")
        if not separator:
            raise CameraError(f"--camera {number}: wants name=url")
        cameras.append(_read_row(f"--camera {number}", {"id": name, "url": url}))
    return _distinct(cameras)


def _read_row(where: str, row: Any) -> Camera:
    try:
        return Camera.model_validate(row)
    except ValidationError as error:
        name = row.get("id") if isinstance(row, dict) else None
        # A name that is none may be part of a URL.
        shown = f" ({name})" if isinstance(name, str) and CAMERA_ID.fullmatch(name) else ""
        raise CameraError(f"{where}{shown}: {summary(error)}") from None


def _distinct(cameras: list[Camera]) -> list[Camera]:
    seen: set[str] = set()
    for camera in cameras:
        if camera.id in seen:
            raise CameraError(f"camera id {camera.id!r} is given twice")
        seen.add(camera.id)
    return cameras
