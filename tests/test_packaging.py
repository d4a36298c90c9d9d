"""The wheel: each folder of modules is a package that pyproject.toml names, or it would be missing there."""

from __future__ import annotations

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
