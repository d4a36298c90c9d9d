"""Files with metadata in every place they have, written and read by ExifTool, which shares no code with sfumato."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SECRETS = {
    "Make": "Cameramaker-51a",
    "Model": "Modelname-52b",
    "SerialNumber": "SN-0053-c",
    "Artist": "Anna Artist-54d",
    "Copyright": "Owner-55e",
    "ImageDescription": "Description-56f",
    "XMP-xmpDM:CameraLabel": "north-gate-57g",
    "XMP-dc:Title": "Tïtle-58h",
    "XMP-dc:Subject": "Keyword-59i",
    "XMP-xmpMM:DocumentID": "xmp.did:60j",
    "IPTC:City": "Delft-61k",
    "IPTC:By-line": "Byline-62l",
    "XMP-photoshop:City": "Delft-61k",
    "Comment": "Comment-63m",
    "OwnerName": "Owner-64n",
    "LensSerialNumber": "Lens-65o",
    "UserComment": "User-66p",
}
MOMENT, OFFSET = "2026:09:12 08:31:05", "+02:00"
LATITUDE, LONGITUDE = 52.01163, 4.35713


def tagged(path: Path, *, size: tuple[int, int] = (96, 64)) -> Path:
    """A picture, by the ending of its name, with all :data:`SECRETS` that its format takes, a thumbnail, and GPS."""
    width, height = size
    ground = np.random.default_rng(5).integers(60, 120, (height, width, 3), dtype=np.uint8)
    Image.fromarray(ground).save(path)
    thumbnail = path.with_name("thumbnail.jpg")
    Image.fromarray(ground[:16, :24]).save(thumbnail)
    tags = [f"-{name}={value}" for name, value in SECRETS.items()]
    tags += [f"-DateTimeOriginal={MOMENT}", f"-OffsetTimeOriginal={OFFSET}", f"-ThumbnailImage<={thumbnail}"]
    tags += [f"-GPSLatitude={LATITUDE}", "-GPSLatitudeRef=N", f"-GPSLongitude={LONGITUDE}", "-GPSLongitudeRef=E"]
    subprocess.run(["exiftool", "-q", "-m", "-overwrite_original", *tags, str(path)], check=True, timeout=60)
    thumbnail.unlink()
    return path


def read(path: Path) -> dict[str, Any]:
    """All that ExifTool finds, by ``Group:Tag``, numbers as numbers; what it derives or knows of the file left out."""
    done = subprocess.run(
        ["exiftool", "-json", "-n", "-a", "-G1", "-ee", str(path)], check=True, capture_output=True, timeout=60
    )
    (tags,) = json.loads(done.stdout)
    outside = ("SourceFile", "ExifTool:", "System:", "File:", "Composite:")
    return {name: value for name, value in tags.items() if not name.startswith(outside)}
