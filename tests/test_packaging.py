"""The wheel: each folder of modules is a package that pyproject.toml names, or it would be missing there."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_folder_of_modules_is_named():
    named = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {
        module.parent.relative_to(ROOT)
        for top in ("agents", "models", "schemas")
        for module in (ROOT / top).rglob("*.py")
    }
    assert named == {"sfumato." + ".".join(folder.parts) for folder in folders}


def test_an_ingestor_loads_what_it_needs_alone():
    """One runs beside each group of cameras: OpenCV, OpenVINO and the API's libraries would double its memory."""
    look = "import sys, sfumato.agents.cli, sfumato.agents.ingest; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cv2", "openvino", "sqlalchemy", "fastapi", "faust", "c2pa"} & {*loaded}
    assert "av" in loaded
