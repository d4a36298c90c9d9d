"""`sfumato verify`, without a broker: what a stranger is told about an honest folder, and by the command."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import exporting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.agents.evidence.verify import digest_of, verify
from sfumato.agents.ledger.account import Log
from sfumato.agents.ledger.entries import Place, read_audit
from sfumato.agents.ledger.note import Checkpoint
from sfumato.agents.ledger.tree import Range, Subtrees, leaf_hash
from sfumato.schemas import export
from sfumato.schemas.audit import DetectorRecord
from sfumato.schemas.detection import DetectorName
from sfumato.schemas.segment import Run
from tests.verifying import (  # noqa: F401
    EVENTS,
    FRAMES,
    KEYS,
    SEALED,
    SIGNER,
    SIZES,
    copy_export,
    failures,
    frame_id,
    frame_path,
    make_export,
    remove_frame,
    run,
    statuses,
    swap_frames,
)

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


def test_frames_before_the_first_of_an_epoch_are_missing_too(tmp_path: Path) -> None:
    """Where the epoch began in the export; else they may be of before it."""
    late = exporting.EPOCH + 1
    events = [*EVENTS[3:5], *(exporting.event(n, FRAMES[n], epoch=late) for n in (3, 4))]
    sealed = exporting.seal(SIGNER, events, (1, 4), missing=[Run(epoch=late, first=0, last=0)])
    exporting.write(tmp_path / "whole", SIGNER, sealed, events, FRAMES)
    told = verify(tmp_path / "whole", KEYS).document()
    gaps = [{"epoch": exporting.EPOCH, "first": 0, "last": 2}, {"epoch": late, "first": 1, "last": 2}]
    assert (told["unstated"], told["before"]) == (gaps, [])
    assert told["missing"] == [{"epoch": late, "first": 0, "last": 0}]
    exporting.write(tmp_path / "rest", SIGNER, sealed, events, FRAMES, skip=1)
    told = verify(tmp_path / "rest", KEYS).document()
    assert (told["unstated"], told["before"]) == (gaps[1:], [{"epoch": exporting.EPOCH, "first": 0, "last": 3}])
    assert "before what was exported: 4 (north/" in told["checks"]["missing"]["detail"]


def test_a_copy_without_an_identity_is_counted_and_an_unsearched_export_named(folder: Path) -> None:
    copy = export.Copy(epoch=None, sequence=None, event=False, sha256="0" * 64, size=1, partition=0, offset=1)
    with (folder / export.COPIES).open("ab") as file:
        file.write(export.dump(copy) + b"\n")
    exporting.relist(folder)
    (told,) = verify(folder, KEYS).document()["checks"]["copies"]["notes"]
    assert "1 without an event" in told
    (folder / export.COPIES).write_bytes(b"")
    exporting.relist(folder)
    assert verify(folder, KEYS).document()["checks"]["copies"]["notes"] == [
        "nobody looked for them: ask for an export with frames"
    ]


def test_an_event_says_by_which_text_its_frame_was_masked(tmp_path: Path) -> None:
    """A segment of a ledger that did not know it yet is none the worse; one that names another is."""
    none = exporting.seal(SIGNER, EVENTS, SIZES, policies={})
    exporting.write(tmp_path / "none", SIGNER, none, EVENTS, FRAMES)
    (tmp_path / "none" / export.POLICIES).write_bytes(
        export.dump(export.PolicyVersion(key="north@3", value=exporting.POLICY)) + b"\n"
    )
    exporting.relist(tmp_path / "none")
    verdict = verify(tmp_path / "none", KEYS)
    assert verdict.passed, "\n".join(verdict.table())
    assert statuses(verdict)["policies"] == "ok"
    weak = exporting.event(3, FRAMES[3], policy_sha256="e" * 64)
    events = [*EVENTS[:3], weak]
    exporting.write(tmp_path / "weak", SIGNER, exporting.seal(SIGNER, events, (4,)), events, FRAMES)
    assert ("policies", frame_id(3)) in failures(verify(tmp_path / "weak", KEYS))


def test_masked_frames_without_a_policy_or_its_text_are_noted(tmp_path: Path) -> None:
    unsaid = [exporting.event(n, None if n == 2 else FRAMES[n], policy_sha256=None) for n in range(3)]
    unsaid[1] = unsaid[1].model_copy(update={"policy_version": None})
    exporting.write(tmp_path / "north", SIGNER, exporting.seal(SIGNER, unsaid, (3,)), unsaid, FRAMES)
    verdict = verify(tmp_path / "north", KEYS)
    assert verdict.passed
    (note,) = verdict.document()["checks"]["policies"]["notes"]
    assert note.startswith("2 masked frames")
    assert note.endswith(f"{frame_id(0)}; {frame_id(1)}")


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
            log.notice(1e9, 0.0, 0.0)
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
    assert "a time from 1971" in run(*wanted, "--from", "0001-01-01T00:00:00Z").output
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
