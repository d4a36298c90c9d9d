"""An export for the tests of `sfumato verify`, made without a broker: a log of 15 frames in three segments."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import exporting
import pytest
from click.testing import CliRunner, Result

from sfumato.agents.cli import main
from sfumato.agents.evidence.verdict import Verdict
from sfumato.schemas import export
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.outcome import Reason
from sfumato.schemas.segment import Run

SIGNER = exporting.signer()
KEYS = [SIGNER.verifier]
FRAMES = {n: b"\xff\xd8\xff" + f"picture {n}".encode() * 3 for n in range(16) if n != 9}
"""The log's 15 frames; 9 is missing, 5 was dropped, 7 is fully masked."""
EVENTS = [
    exporting.event(n, None if n == 5 else frame, reason=Reason.NO_POLICY if n == 7 else None)
    for n, frame in FRAMES.items()
]
SIZES = (4, 9, 15)
SEALED = exporting.seal(SIGNER, EVENTS, SIZES, missing=[Run(epoch=exporting.EPOCH, first=9, last=9)])


def frame_id(sequence: int) -> str:
    return str(FrameId("north", exporting.EPOCH, sequence))


def frame_path(sequence: int) -> str:
    return export.frame_path(FrameId("north", exporting.EPOCH, sequence), ".jpg")


@pytest.fixture(scope="module", name="made")
def make_export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An export of the two last segments, which no test changes."""
    folder = tmp_path_factory.mktemp("exports") / "north"
    exporting.write(folder, SIGNER, SEALED, EVENTS, FRAMES, skip=1)
    manifest = (folder / export.MANIFEST).read_bytes()
    yield folder
    assert (folder / export.MANIFEST).read_bytes() == manifest


@pytest.fixture(name="folder")
def copy_export(made: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "north"))


def failures(verdict: Verdict) -> set[tuple[str, str]]:
    return {(failure.check, failure.where) for failure in verdict.failures}


def statuses(verdict: Verdict) -> dict[str, str]:
    return {name: check["status"] for name, check in verdict.document()["checks"].items()}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def swap_frames(folder: Path) -> None:
    first, second = folder / frame_path(6), folder / frame_path(8)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def remove_frame(folder: Path) -> None:
    (folder / frame_path(6)).unlink()
