"""`sfumato verify`: a proof of one frame."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfumato.agents.evidence.proof import Proof, verify_proof
from sfumato.agents.ledger.note import NoteError
from sfumato.agents.ledger.tree import Range, Subtrees, leaf_hash
from tests.verifying import EVENTS, KEYS, SEALED, SIGNER, failures, frame_id, frame_path, make_export, run  # noqa: F401


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


def test_the_command_and_a_proof(proof: Path, made: Path) -> None:
    assert run("verify", proof, "--key", SIGNER.verifier, "--frame", made / frame_path(6)).exit_code == 0
    assert run("verify", proof, "--key", SIGNER.verifier, "--frame", made / frame_path(8)).exit_code == 1
    assert "a proof needs --key" in run("verify", proof).output
