"""`sfumato verify`: what was signed and lies all the same, and what was never an export."""

from __future__ import annotations

import json
from pathlib import Path

import exporting
import pytest

from sfumato.agents.evidence.inventory import ExportError, read_lines
from sfumato.agents.evidence.verdict import printable
from sfumato.agents.evidence.verify import verify
from sfumato.agents.ledger.note import Checkpoint
from sfumato.schemas import export
from sfumato.schemas.segment import Run
from tests.verifying import (  # noqa: F401
    EVENTS,
    FRAMES,
    KEYS,
    SIGNER,
    SIZES,
    copy_export,
    failures,
    frame_id,
    frame_path,
    make_export,
)


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


@pytest.mark.parametrize("field", ["runs", "missing"])
def test_a_run_that_ends_before_it_begins_is_a_failure(tmp_path: Path, field: str) -> None:
    _, segment = exporting.seal(SIGNER, EVENTS, [15])[0]
    backwards = Run.model_construct(epoch=exporting.EPOCH, first=5, last=3)
    lying = segment.model_copy(update={field: (backwards,)})
    checkpoint = Checkpoint("sfumato.example/north", 15, bytes.fromhex(segment.root), (lying.model_dump_json(),))
    exporting.write(tmp_path / "north", SIGNER, [(SIGNER.sign(checkpoint.text()).encode(), lying)], EVENTS, FRAMES)
    (problem,) = [f.problem for f in verify(tmp_path / "north", KEYS).failures if f.check == "signatures"]
    assert "first: comes after last" in problem


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
