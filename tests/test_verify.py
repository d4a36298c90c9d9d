"""`sfumato verify`, without a broker: what a stranger is told about a folder, honest, damaged or forged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import exporting
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfumato.agents.cli import main
from sfumato.agents.evidence.inventory import ExportError, read_lines, walk
from sfumato.agents.evidence.proof import Proof, verify_proof
from sfumato.agents.evidence.tally import Frames
from sfumato.agents.evidence.verdict import Verdict, printable
from sfumato.agents.evidence.verify import digest_of, verify
from sfumato.agents.ledger.account import Log
from sfumato.agents.ledger.entries import Place, read_audit
from sfumato.agents.ledger.note import Checkpoint, NoteError
from sfumato.agents.ledger.tree import Range, Subtrees, leaf_hash
from sfumato.schemas import export
from sfumato.schemas.audit import AuditEvent, DetectorRecord
from sfumato.schemas.cloudevent import EnvelopeError, FrameId
from sfumato.schemas.detection import DetectorName
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the two last segments; never changed."""
    folder = tmp_path_factory.mktemp("exports") / "north"
    exporting.write(folder, SIGNER, SEALED, EVENTS, FRAMES, skip=1)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "north"))


def failures(verdict: Verdict) -> set[tuple[str, str]]:
    return {(failure.check, failure.where) for failure in verdict.failures}


def statuses(verdict: Verdict) -> dict[str, str]:
    return {name: check["status"] for name, check in verdict.document()["checks"].items()}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


# What is honest


def test_an_export_passes_and_says_what_was_checked(made: Path) -> None:
    verdict = verify(made, KEYS)
    assert verdict.passed
    assert verdict.failures == []
    told = verdict.document()
    assert {name: told[name] for name in ("verdict", "log", "first", "size", "events", "published", "root")} == {
        "verdict": "passed",
        "log": "north",
        "first": 4,
        "size": 15,
        "events": 11,
        "published": 10,
        "root": SEALED[-1][1].root,
    }
    assert told["missing"] == [{"epoch": exporting.EPOCH, "first": 9, "last": 9}]
    assert set(statuses(verdict).values()) == {"ok", "note"}
    assert statuses(verdict)["missing"] == "note"


def test_a_log_from_its_beginning_and_one_of_a_single_event(tmp_path: Path) -> None:
    exporting.write(tmp_path / "whole", SIGNER, SEALED, EVENTS, FRAMES)
    assert verify(tmp_path / "whole", KEYS).document()["events"] == 15
    one = exporting.seal(SIGNER, EVENTS[:1], [1])
    exporting.write(tmp_path / "one", SIGNER, one, EVENTS[:1], FRAMES)
    assert verify(tmp_path / "one", KEYS).passed


def test_without_a_key_the_verdict_says_that_it_proves_little(made: Path) -> None:
    verdict = verify(made)
    assert verdict.passed
    assert statuses(verdict)["key"] == "note"
    assert any("proves only that the folder agrees with itself" in line for line in verdict.table())


def test_an_export_without_frames_says_so(tmp_path: Path) -> None:
    exporting.write(tmp_path / "north", SIGNER, SEALED, EVENTS, FRAMES, with_frames=False)
    verdict = verify(tmp_path / "north", KEYS)
    assert verdict.passed
    assert statuses(verdict)["frames"] == "note"
    assert any("exported without frames: 14 published ones were not compared" in line for line in verdict.table())


def test_frames_in_an_export_without_frames_are_refused(folder: Path) -> None:
    """Else some could be taken away, and the rest pass."""
    remove_frame(folder)
    exporting.relist(folder, frames=False)
    assert ("frames", frame_path(8)) in failures(verify(folder, KEYS))


def test_frames_found_late_are_not_missing(tmp_path: Path) -> None:
    late = [*EVENTS[:9], exporting.event(9, b"late")]
    sealed = exporting.seal(SIGNER, late, (4, 9, 10), missing=[Run(epoch=exporting.EPOCH, first=8, last=9)])
    exporting.write(tmp_path / "north", SIGNER, sealed, late, {**FRAMES, 9: b"late"})
    assert verify(tmp_path / "north", KEYS).document()["missing"] == []


def test_a_gap_that_no_segment_states_is_noted(tmp_path: Path) -> None:
    sealed = exporting.seal(SIGNER, EVENTS, SIZES)
    exporting.write(tmp_path / "north", SIGNER, sealed, EVENTS, FRAMES)
    told = verify(tmp_path / "north", KEYS).document()
    assert told["unstated"] == [{"epoch": exporting.EPOCH, "first": 9, "last": 9}]
    assert told["checks"]["missing"]["status"] == "note"


# Whatever is changed


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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
    if path != export.MANIFEST:
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


def swap_frames(folder: Path) -> None:
    first, second = folder / frame_path(6), folder / frame_path(8)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def add_frame(folder: Path) -> None:
    (folder / frame_path(99)).write_bytes(b"\xff\xd8\xffunheard of")


def add_dropped_frame(folder: Path) -> None:
    (folder / frame_path(5)).write_bytes(b"\xff\xd8\xffdropped")


def second_file(folder: Path) -> None:
    shutil.copy(folder / frame_path(6), (folder / frame_path(6)).with_suffix(".h264"))


def hide_a_file(folder: Path) -> None:
    (folder / export.CONSISTENCY).mkdir()
    (folder / export.CONSISTENCY / "note.json").write_text("{}")


def remove_frame(folder: Path) -> None:
    (folder / frame_path(6)).unlink()


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


def test_a_log_that_was_sealed_anew_by_another_key(tmp_path: Path) -> None:
    other = exporting.signer(2)
    forged = exporting.seal(other, EVENTS, SIZES)
    exporting.write(tmp_path / "north", other, forged, EVENTS, FRAMES)
    assert verify(tmp_path / "north").passed  # it agrees with itself
    verdict = verify(tmp_path / "north", KEYS)
    assert {("key", export.KEY), ("signatures", export.checkpoint_path(4))} <= failures(verdict)


def test_a_segment_that_counts_otherwise_than_its_events(tmp_path: Path) -> None:
    """The key's owner signed it, and it is found all the same."""
    miscounted = [*EVENTS[:5], exporting.event(5, b"\xff\xd8\xff published"), *EVENTS[6:]]
    sealed = exporting.seal(SIGNER, EVENTS, [15])
    _, segment = sealed[0]
    other = exporting.seal(SIGNER, miscounted, [15])[0][1]
    lying = segment.model_copy(update={"outcomes": other.outcomes, "reasons": other.reasons, "runs": other.runs[:1]})
    checkpoint = Checkpoint("sfumato.example/north", 15, bytes.fromhex(segment.root), (lying.model_dump_json(),))
    exporting.write(tmp_path / "north", SIGNER, [(SIGNER.sign(checkpoint.text()).encode(), lying)], EVENTS, FRAMES)
    problems = [f.problem for f in verify(tmp_path / "north", KEYS).failures if f.check == "counts"]
    assert len(problems) == 3


def test_an_event_twice_is_named(tmp_path: Path) -> None:
    twice = [*EVENTS[:3], EVENTS[1]]
    exporting.write(tmp_path / "north", SIGNER, exporting.seal(SIGNER, twice, [4]), twice[:3], FRAMES)
    with (tmp_path / "north" / export.AUDIT).open("ab") as file:
        file.write(twice[3].to_message().value + b"\n")
    exporting.relist(tmp_path / "north")
    assert ("events", frame_id(1)) in failures(verify(tmp_path / "north", KEYS))


def odd_event(**changes: object) -> bytes:
    return json.dumps({**json.loads(EVENTS[0].to_message().value), **changes}).encode()


ODD_LEAVES = [
    *(b"[" * 100_000, b"{}", b"\xff\xfe", b'{"a\n":1}', b'"'),
    odd_event(epoch=-1),
    odd_event(sequence=-1),
    odd_event(epoch=10**18),
    odd_event(sequence=2**63),
    odd_event(epoch=10**4000, id=f"north/{10**4000}/0"),
    odd_event(camera="south"),
    odd_event(camera=None),
    odd_event(id="north/1/1"),
]


@pytest.mark.parametrize("leaf", ODD_LEAVES, ids=range(len(ODD_LEAVES)))
def test_a_leaf_that_is_no_event_is_named(tmp_path: Path, leaf: bytes) -> None:
    """It was sealed all the same: whoever may write to the topic wrote it."""

    class Odd:
        """An event whose message is the leaf."""

        def __getattr__(self, name: str) -> object:
            return getattr(EVENTS[0], name)

        def to_message(self) -> object:
            return type("Message", (), {"value": leaf})

    odd = [Odd(), *EVENTS[1:4]]
    exporting.write(tmp_path / "north", SIGNER, exporting.seal(SIGNER, odd, [4]), odd, FRAMES)  # type: ignore[arg-type]
    verdict = verify(tmp_path / "north", KEYS)
    assert [failure.where for failure in verdict.failures if failure.check == "events"]
    assert not [failure for failure in verdict.failures if failure.check in ("heads", "signatures", "manifest")]


@pytest.mark.parametrize("hashes", [(), ("00" * 32,), ("00" * 32, "00" * 32)])
def test_a_frontier_that_does_not_go_with_the_root_before_it_is_named(tmp_path: Path, hashes: tuple[str, ...]) -> None:
    """Signed all the same: whoever has the key may lie about what came before."""
    _, (_, segment) = exporting.seal(SIGNER, EVENTS, [4, 9])
    lying = segment.model_copy(update={"frontier": hashes})
    text = Checkpoint(f"{SIGNER.name}/north", 9, bytes.fromhex(segment.root), (lying.model_dump_json(),)).text()
    sealed = [exporting.seal(SIGNER, EVENTS, [4])[0], (SIGNER.sign(text).encode(), lying)]
    exporting.write(tmp_path / "north", SIGNER, sealed, EVENTS, FRAMES, skip=1)
    failures = {(failure.check, failure.where) for failure in verify(tmp_path / "north", KEYS).failures}
    assert ("heads", export.checkpoint_path(9)) in failures


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            export.MANIFEST,
            export.AUDIT,
            export.POLICIES,
            export.WEIGHTS,
            export.KEY,
            export.COPIES,
            export.checkpoint_path(9),
        }
    ),
)
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{" * 50_000 + b"\n", b"\x00\xff" * 40, b'{"size":1e400}\n', b"null\n", "— x y\n".encode()]
)
def test_garbage_is_a_failure_and_never_an_exception(folder: Path, name: str, content: bytes) -> None:
    if name == export.COPIES and not content:
        return
    (folder / name).write_bytes(content)
    assert not verify(folder, KEYS).passed
    if name != export.MANIFEST:
        exporting.relist(folder)
        assert not verify(folder, KEYS).passed


def test_a_huge_line_is_not_read_whole(folder: Path) -> None:
    with (folder / export.AUDIT).open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of zeros, without blocks
    with pytest.raises(ExportError, match="longer than"):
        list(read_lines(folder / export.AUDIT, export.AUDIT))
    (folder / frame_path(6)).unlink()
    with (folder / frame_path(6)).open("wb") as file:
        file.truncate(1 << 40)
    assert {("manifest", frame_path(6)), ("manifest", export.AUDIT)} <= failures(verify(folder, KEYS))


def test_names_of_files_cannot_command_a_terminal(folder: Path) -> None:
    (folder / "\x1b[2Jcleared\udcff").write_text("")
    shown = "\n".join(verify(folder, KEYS).table())
    assert "\x1b" not in shown
    assert "\\x1b[2Jcleared" in shown
    assert printable("a\nb\u202e") == "a\\x0ab\\x202e"


def test_many_failures_are_counted_and_the_first_are_named(folder: Path) -> None:
    for number in range(1500):
        (folder / f"junk-{number}").write_text("")
    verdict = verify(folder, KEYS)
    assert len(verdict.failures) == 1000
    assert verdict.document()["failed"] == 1500


# Keys and weights


def test_two_keys_after_a_change_of_keys(tmp_path: Path) -> None:
    old = exporting.signer(2)
    before, after = exporting.seal(old, EVENTS, SIZES), SEALED
    exporting.write(tmp_path / "north", SIGNER, [before[0], *after[1:]], EVENTS, FRAMES)
    (tmp_path / "north" / export.KEY).write_text(f"{SIGNER.verifier}\n{old.verifier}\n")
    exporting.relist(tmp_path / "north")
    assert verify(tmp_path / "north", [SIGNER.verifier, old.verifier]).passed
    assert ("signatures", export.checkpoint_path(4)) in failures(verify(tmp_path / "north", KEYS))


def test_weights_of_ones_own_are_known_when_their_file_is_given(tmp_path: Path) -> None:
    model = tmp_path / "own.onnx"
    model.write_bytes(b"weights")
    digest = digest_of(model)
    record = DetectorRecord(name=DetectorName.ULTRALYTICS, weights_sha256=digest)
    events = [each.model_copy(update={"detectors": (record,)}) for each in EVENTS[:4]]
    ((_, segment),) = exporting.seal(SIGNER, events, [4])
    segment = segment.model_copy(update={"detectors": {"ultralytics": (digest,)}})
    checkpoint = Checkpoint("sfumato.example/north", 4, bytes.fromhex(segment.root), (segment.model_dump_json(),))
    sealed = [(SIGNER.sign(checkpoint.text()).encode(), segment)]
    exporting.write(tmp_path / "north", SIGNER, sealed, events, FRAMES)
    weight = export.Weight(detector="ultralytics", sha256=digest)
    (tmp_path / "north" / export.WEIGHTS).write_bytes(export.dump(export.Weights(weights=(weight,))) + b"\n")
    exporting.relist(tmp_path / "north")
    assert failures(verify(tmp_path / "north", KEYS)) == {("weights", "ultralytics")}
    assert verify(tmp_path / "north", KEYS, models=[model]).passed


# Since an older checkpoint


def kept(folder: Path, note: bytes) -> Path:
    path = folder / "kept.txt"
    path.write_bytes(note)
    return path


def test_nothing_was_rewritten_since_a_checkpoint_within_the_export(made: Path, tmp_path: Path) -> None:
    """Also one that another ledger sealed in between."""
    for size in (4, 7, 9, 15):
        ((note, _),) = exporting.seal(SIGNER, EVENTS, [size])
        verdict = verify(made, KEYS, [kept(tmp_path, note)])
        assert verdict.passed, list(verdict.table())
        assert statuses(verdict)["since"] == "ok"


def test_a_checkpoint_from_before_the_export_wants_its_proof(folder: Path, tmp_path: Path) -> None:
    ((note, _),) = exporting.seal(SIGNER, EVENTS, [3])
    since = kept(tmp_path, note)
    assert failures(verify(folder, KEYS, [since])) == {("since", "kept.txt")}
    known = Subtrees([Range(n, n + 1, [leaf_hash(each.to_message().value)]) for n, each in enumerate(EVENTS[:4])])
    proof = export.Consistency(first=3, second=4, path=tuple(h.hex() for h in known.consistency(3, 4)))
    (folder / export.CONSISTENCY).mkdir()
    (folder / export.consistency_path(3)).write_bytes(export.dump(proof) + b"\n")
    exporting.relist(folder)
    assert verify(folder, KEYS, [since]).passed


@pytest.mark.parametrize("size", [3, 4, 7, 12])
def test_a_log_that_was_rewritten_since_is_found(made: Path, tmp_path: Path, size: int) -> None:
    other = [exporting.event(0, b"what it was before"), *EVENTS[1:]]
    ((note, _),) = exporting.seal(SIGNER, other, [size])
    assert failures(verify(made, KEYS, [kept(tmp_path, note)])) == {("since", "kept.txt")}


def test_a_checkpoint_of_another_log_key_or_time_is_refused(made: Path, tmp_path: Path) -> None:
    for note in (
        exporting.seal(exporting.signer(2), EVENTS, [4])[0][0],
        exporting.seal(SIGNER, EVENTS, [4], log="south")[0][0],
        exporting.seal(SIGNER, [*EVENTS, exporting.event(16, b"newer")], [16])[0][0],
        b"nothing",
    ):
        assert failures(verify(made, KEYS, [kept(tmp_path, note)])) == {("since", "kept.txt")}


# Proofs of one frame


def proof_of(position: int) -> Proof:
    hashes = [Range(n, n + 1, [leaf_hash(each.to_message().value)]) for n, each in enumerate(EVENTS[:9])]
    path = tuple(Subtrees(hashes).inclusion(position, 9))
    return Proof(EVENTS[position].to_message().value, position, path, SEALED[1][0].decode())


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    path = tmp_path / "north.tlog-proof"
    path.write_text(proof_of(6).text(), newline="")
    return path


def test_a_proof_shows_one_event_and_its_frame(proof: Path, made: Path) -> None:
    verdict = verify_proof(proof, KEYS, made / frame_path(6))
    assert verdict.passed
    assert verdict.document()["event"]["id"] == frame_id(6)
    assert not any(str(each.input_sha256) in proof.read_text() for each in EVENTS)  # other events are not in it
    assert failures(verify_proof(proof, KEYS, made / frame_path(8))) == {("frames", frame_id(6))}


def test_a_proof_reads_as_c2sp_says(proof: Path) -> None:
    magic, extra, index, *rest = proof.read_text().split("\n")
    assert (magic, index) == ("c2sp.org/tlog-proof@v1", "index 6")
    assert extra.startswith("extra ")
    assert rest[4:7] == ["", "sfumato.example/north", "9"]
    assert Proof.parse(proof.read_text()) == proof_of(6)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_of_a_proof_is_caught(proof: Path, data: st.DataObject) -> None:
    whole = proof_of(6).text().encode()
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    proof.write_bytes(content)
    assert not verify_proof(proof, KEYS).passed
    proof.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert not verify_proof(proof, KEYS).passed


@settings(max_examples=200)
@given(st.text() | st.text(alphabet="c2sp.org/tlog-proof@v1\nextra indx0123456789+=—", max_size=400))
def test_a_proof_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Proof.parse(text)


def test_a_dropped_frames_proof_has_no_file(tmp_path: Path, made: Path) -> None:
    path = tmp_path / "dropped.tlog-proof"
    path.write_text(proof_of(5).text(), newline="")
    assert verify_proof(path, KEYS).passed
    assert failures(verify_proof(path, KEYS, made / frame_path(6))) == {("frames", frame_id(5))}


# What the ledger itself seals


@settings(max_examples=25, deadline=None)
@given(
    frames=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.booleans()), min_size=1, max_size=60),
    cuts=st.sets(st.integers(1, 59)),
    skip=st.integers(0, 3),
)
def test_whatever_the_ledger_seals_passes(
    tmp_path_factory: pytest.TempPathFactory, frames: list[tuple[int, int, bool]], cuts: set[int], skip: int
) -> None:
    """In whatever order frames come, again, in several epochs or not at all: both accounts agree."""
    log, leaves, sealed = Log("north", Place("audit", 0)), [], []
    policy = hashlib.sha256(exporting.POLICY.encode()).hexdigest()
    for offset, (epoch, sequence, dropped) in enumerate(frames):
        event = exporting.event(sequence, None if dropped else FRAMES[0], epoch=epoch)
        key, value, _ = event.to_message()
        if log.take(read_audit(key, value, 0), offset, 0.0):
            leaves.append(event)
        if (offset in cuts or offset == len(frames) - 1) and log.size > log.tree.end:
            log.notice(1e9, 0.0)
            segment = log.seal("audit", exporting.BEGAN, lambda name, version: policy)
            root = bytes.fromhex(segment.root)
            checkpoint = Checkpoint("sfumato.example/north", segment.size, root, (segment.model_dump_json(),))
            sealed.append((SIGNER.sign(checkpoint.text()).encode(), segment))
    folder = tmp_path_factory.mktemp("sealed") / "north"
    pictures = dict.fromkeys(range(21), FRAMES[0])
    exporting.write(folder, SIGNER, sealed, leaves, pictures, skip=min(skip, len(sealed) - 1))
    detectors = {name for _, segment in sealed[min(skip, len(sealed) - 1) :] for name in segment.detectors}
    if not detectors:
        (folder / export.WEIGHTS).write_bytes(export.dump(export.Weights(weights=())) + b"\n")
        exporting.relist(folder)
    verdict = verify(folder, KEYS)
    assert verdict.passed, "\n".join(verdict.table())


# The command


def test_the_command_prints_a_table_or_json_and_says_by_its_status(made: Path, folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{SIGNER.verifier}\n")
    passed = run("verify", made, "--key", key)
    assert (passed.exit_code, passed.output.splitlines()[-1]) == (0, "verdict: passed")
    swap_frames(folder)
    failed = run("verify", folder, "--key", SIGNER.verifier)
    assert (failed.exit_code, failed.output.splitlines()[-1]) == (1, "verdict: FAILED")
    assert frame_id(6) in failed.output
    told = json.loads(run("verify", folder, "--key", str(SIGNER.verifier), "--json").output)
    assert told["verdict"] == "failed"
    assert {"check": "frames", "where": frame_id(8)}.items() <= told["failures"][-1].items()


def test_the_command_and_a_proof(proof: Path, made: Path) -> None:
    assert run("verify", proof, "--key", SIGNER.verifier, "--frame", made / frame_path(6)).exit_code == 0
    assert run("verify", proof, "--key", SIGNER.verifier, "--frame", made / frame_path(8)).exit_code == 1
    assert "a proof needs --key" in run("verify", proof).output


@pytest.mark.parametrize("key", ["north+00000000+AA==", "nowhere.key", "a+b"])
def test_a_key_that_is_none_is_named(made: Path, key: str) -> None:
    refused = run("verify", made, "--key", key)
    assert refused.exit_code == 1
    assert "--key" in refused.output
    assert refused.exception is None or isinstance(refused.exception, SystemExit)


def test_an_export_wants_a_key_and_whole_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SFUMATO_STATE_DIR", str(tmp_path))
    wanted = ("export", "--camera", "north", "--out", tmp_path / "north")
    assert "give --key what `sfumato ledger-key` prints" in run(*wanted).output
    assert "has no time zone" in run(*wanted, "--from", "2026-11-24T08:00:00").output
    assert "a time reads" in run(*wanted, "--until", "noon").output
    assert "an id matches" in run("export", "--camera", "../x", "--out", tmp_path / "north").output
    assert "CAMERA/EPOCH/SEQUENCE" in run("prove", "north/1", "--out", tmp_path / "north").output
    assert list(tmp_path.iterdir()) == []


def test_verify_needs_neither_kafka_nor_a_network(made: Path) -> None:
    program = f"""
import socket, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("confluent_kafka", "faust", "aiokafka"):
            raise ImportError(name)

def refuse(*_):
    raise OSError("no network")

sys.meta_path.insert(0, Refuse())
socket.socket.connect = socket.getaddrinfo = refuse
from sfumato.agents.cli import main
main(["verify", {str(made)!r}, "--key", {str(SIGNER.verifier)!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("verdict: passed\n")


# The parts


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 9))))
def test_runs_make_the_set_of_their_frames(runs: list[tuple[int, int, int]]) -> None:
    given_runs = [Run(epoch=epoch, first=first, last=first + length) for epoch, first, length in runs]
    found = Frames(given_runs).runs()
    assert {(r.epoch, n) for r in found for n in range(r.first, r.last + 1)} == {
        (r.epoch, n) for r in given_runs for n in range(r.first, r.last + 1)
    }
    assert all(a.epoch < b.epoch or (a.epoch == b.epoch and a.last + 1 < b.first) for a, b in pairwise(found))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40))),
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 9)),
)
def test_frames_are_a_set(frames: list[tuple[int, int]], run: tuple[int, int, int]) -> None:
    found, plain = Frames(), set()
    for frame in frames:
        assert found.add(*frame) == (frame not in plain)
        plain.add(frame)

    def each(runs: Iterable[Run]) -> set[tuple[int, int]]:
        return {(run.epoch, n) for run in runs for n in range(run.first, run.last + 1)}

    assert each(found.runs()) == plain
    assert each(Frames(found.runs()[::-1]).runs()) == plain
    assert all(found.has(*frame) for frame in plain)
    epoch, first, length = run
    wanted = Run(epoch=epoch, first=first, last=first + length)
    assert each(found.absent(wanted)) == each([wanted]) - plain
    inside = {(e, n) for e in range(3) for n in range(41) if found.between(e, n)}
    assert each(found.gaps()) == inside - plain
    assert plain <= inside


@given(st.binary())
def test_every_leaf_is_one_line(leaf: bytes) -> None:
    line = export.leaf_line(leaf)
    assert b"\n" not in line
    assert export.leaf(line) == leaf


@given(st.binary(max_size=30))
def test_a_line_has_one_leaf_and_a_leaf_one_line(line: bytes) -> None:
    if b"\n" not in line:
        try:
            leaf = export.leaf(line)
        except EnvelopeError:
            return
        assert export.leaf_line(leaf) == line


def test_the_walk_is_in_the_order_of_paths(folder: Path) -> None:
    for name in ("a.txt", "a/b", "a-b/c", "A", "frames0"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    paths = [found.path for found in walk(folder)]
    assert paths == sorted(paths)
    assert set(paths) == set(files(folder)) - {export.MANIFEST}


@pytest.fixture(autouse=True)
def _no_manifest_left(made: Path) -> Iterator[None]:
    """No test changes what all share."""
    before = (made / export.MANIFEST).read_bytes()
    yield
    assert (made / export.MANIFEST).read_bytes() == before
