"""`sfumato verify`: whatever is changed in an export is found, and named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import exporting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.agents.evidence.verify import verify
from sfumato.schemas import export
from sfumato.schemas.audit import AuditEvent
from tests.verifying import (  # noqa: F401
    KEYS,
    copy_export,
    failures,
    files,
    frame_id,
    frame_path,
    make_export,
    remove_frame,
    swap_frames,
)


def still(folder: Path, change: Callable[[], None]) -> bool:
    """Whether the folder passes after the change, as it is or with a manifest that lists it; it is put back."""
    with put_back(folder):
        change()
        if verify(folder, KEYS).passed:
            return True
        if not (folder / export.MANIFEST).exists():
            return False
        try:
            exporting.relist(folder)
        except ValueError:  # the manifest itself is no more
            return False
        return verify(folder, KEYS).passed


@contextmanager
def put_back(folder: Path) -> Iterator[None]:
    contents = {path: (folder / path).read_bytes() for path in files(folder)}
    try:
        yield
    finally:
        for path in files(folder):
            if path not in contents:
                (folder / path).unlink()
        for path, content in contents.items():
            if not (folder / path).exists() or (folder / path).read_bytes() != content:
                (folder / path).write_bytes(content)
        for empty in sorted(folder.rglob("*"), reverse=True):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()


PROPERTY = settings(max_examples=60, deadline=None)  # `ops/bench_verify.py` flips every byte
NOT_SIGNED = (export.COPIES, export.MANIFEST)
"""What whoever forges a folder may write as he likes, as long as it is well-formed: what no signature covers."""


@pytest.fixture(scope="module")
def shared(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is put back after each change."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("shared") / "north"))


@PROPERTY
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_caught(shared: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in files(shared) if (shared / path).stat().st_size]))
    content = bytearray((shared / path).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if path not in NOT_SIGNED:
        assert not still(shared, lambda: (shared / path).write_bytes(content) and None)
    else:
        with put_back(shared):
            (shared / path).write_bytes(content)
            verdict = verify(shared, KEYS)
            assert verdict.failures
            assert not verdict.passed


@PROPERTY
@given(data=st.data())
def test_a_truncated_grown_renamed_or_removed_file_is_caught(shared: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in files(shared) if path not in NOT_SIGNED]))
    size = (shared / path).stat().st_size
    place = data.draw(st.integers(0, size - 1))

    def truncate() -> None:
        os.truncate(shared / path, place)

    def grow() -> None:
        with (shared / path).open("ab") as file:
            file.write(b"\n")

    def rename() -> None:
        letter = place % len(path)
        other = path[:letter] + ("y" if path[letter] == "x" else "x") + path[letter + 1 :]
        (shared / other).parent.mkdir(parents=True, exist_ok=True)
        (shared / path).rename(shared / other)

    def remove() -> None:
        (shared / path).unlink()

    assert not still(shared, data.draw(st.sampled_from([truncate, grow, rename, remove])))


@pytest.mark.parametrize("path", [export.COPIES, export.MANIFEST])
def test_what_no_signature_covers_cannot_go_or_be_cut(folder: Path, path: str) -> None:
    (folder / path).write_bytes((folder / path).read_bytes()[:-1] + b"x")
    assert not verify(folder, KEYS).passed
    (folder / path).unlink()
    assert not verify(folder, KEYS).passed


def add_frame(folder: Path) -> None:
    (folder / frame_path(99)).write_bytes(b"\xff\xd8\xffunheard of")


def add_dropped_frame(folder: Path) -> None:
    (folder / frame_path(5)).write_bytes(b"\xff\xd8\xffdropped")


def second_file(folder: Path) -> None:
    shutil.copy(folder / frame_path(6), (folder / frame_path(6)).with_suffix(".h264"))


def hide_a_file(folder: Path) -> None:
    (folder / export.CONSISTENCY).mkdir()
    (folder / export.CONSISTENCY / "note.json").write_text("{}")


def other_camera(folder: Path) -> None:
    target = folder / frame_path(6).replace("/north/", "/south/")
    target.parent.mkdir(parents=True)
    shutil.copy(folder / frame_path(6), target)


def lines_of(folder: Path) -> list[str]:
    return (folder / export.AUDIT).read_text().splitlines()


def rewrite_event(folder: Path) -> None:
    """What a frame was, together with the frame."""
    lines = lines_of(folder)
    event = AuditEvent.from_message(lines[1].encode())
    forged = b"\xff\xd8\xffunmasked"
    lines[1] = exporting.event(event.sequence or 0, forged).to_message().value.decode()
    (folder / export.AUDIT).write_text("\n".join(lines) + "\n")
    (folder / frame_path(event.sequence or 0)).write_bytes(forged)


def swap_events(folder: Path) -> None:
    lines = lines_of(folder)
    lines[0], lines[2] = lines[2], lines[0]
    (folder / export.AUDIT).write_text("\n".join(lines) + "\n")


def drop_event(folder: Path) -> None:
    (folder / export.AUDIT).write_text("\n".join(lines_of(folder)[:-1]) + "\n")


def add_event(folder: Path) -> None:
    (folder / export.AUDIT).write_text("\n".join([*lines_of(folder), lines_of(folder)[0]]) + "\n")


def drop_checkpoint(folder: Path) -> None:
    (folder / export.checkpoint_path(9)).unlink()


def drop_last_segment(folder: Path) -> None:
    (folder / export.checkpoint_path(15)).unlink()
    (folder / export.AUDIT).write_text("\n".join(lines_of(folder)[:5]) + "\n")


def change_policy(folder: Path) -> None:
    policy = export.PolicyVersion(key="north@3", value=exporting.POLICY.replace("example", "exemple"))
    (folder / export.POLICIES).write_bytes(export.dump(policy) + b"\n")


def drop_policy(folder: Path) -> None:
    (folder / export.POLICIES).write_bytes(b"")


def rename_weights(folder: Path) -> None:
    weight = export.Weight(detector="centerface", sha256=exporting.CENTERFACE.weights_sha256, name="clp")
    (folder / export.WEIGHTS).write_bytes(export.dump(export.Weights(weights=(weight,))) + b"\n")


def add_file(folder: Path) -> None:
    (folder / "readme.txt").write_text("trust me")


def add_folder(folder: Path) -> None:
    (folder / "frames" / "empty").mkdir()


def deep_folder(folder: Path) -> None:
    (folder / "a/b/c/d/e/f").mkdir(parents=True)


def link_a_frame(folder: Path) -> None:
    target = folder / frame_path(6)
    target.rename(folder.parent / "elsewhere.jpg")
    target.symlink_to(folder.parent / "elsewhere.jpg")


def link_the_events(folder: Path) -> None:
    (folder / export.AUDIT).rename(folder.parent / "elsewhere")
    (folder / export.AUDIT).symlink_to(folder.parent / "elsewhere")


def link_a_folder(folder: Path) -> None:
    (folder / export.CHECKPOINTS).rename(folder.parent / "elsewhere")
    (folder / export.CHECKPOINTS).symlink_to(folder.parent / "elsewhere")


def fifo(folder: Path) -> None:
    (folder / export.COPIES).unlink()
    os.mkfifo(folder / export.COPIES)


CHANGES: list[tuple[Callable[[Path], None], tuple[str, str]]] = [
    (swap_frames, ("frames", frame_id(6))),
    (swap_frames, ("frames", frame_id(8))),
    (add_frame, ("frames", frame_path(99))),
    (add_dropped_frame, ("frames", frame_path(5))),
    (second_file, ("frames", str(Path(frame_path(6)).with_suffix(".jpg")))),
    (remove_frame, ("frames", frame_id(6))),
    (other_camera, ("frames", frame_path(6).replace("/north/", "/south/"))),
    (rewrite_event, ("heads", f"{frame_id(4)} to {frame_id(7)}")),
    (swap_events, ("heads", f"{frame_id(6)} to {frame_id(7)}")),
    (drop_event, ("heads", export.AUDIT)),
    (add_event, ("heads", export.AUDIT)),
    (drop_checkpoint, ("heads", export.checkpoint_path(15))),
    (drop_last_segment, ("heads", export.MANIFEST)),
    (change_policy, ("policies", "north@3")),
    (drop_policy, ("policies", "north@3")),
    (rename_weights, ("weights", export.WEIGHTS)),
    (add_file, ("manifest", "readme.txt")),
    (hide_a_file, ("manifest", f"{export.CONSISTENCY}/note.json")),
    (add_folder, ("manifest", "frames/empty/")),
    (deep_folder, ("manifest", "a/b/c/d/e")),
    (link_a_frame, ("manifest", frame_path(6))),
    (link_the_events, ("manifest", export.AUDIT)),
    (link_a_folder, ("manifest", export.CHECKPOINTS)),
    (fifo, ("manifest", export.COPIES)),
]


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_change_is_named_though_it_is_listed(
    folder: Path, change: Callable[[Path], None], named: tuple[str, str]
) -> None:
    change(folder)
    assert not verify(folder, KEYS).passed
    exporting.relist(folder)
    assert named in failures(verify(folder, KEYS))
