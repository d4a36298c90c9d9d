"""Signed notes and checkpoints against Go's vector, and what of them is refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.agents.ledger.note import Checkpoint, NoteError, Signer, VerifierKey, open_note

VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
NOTE = f"{TEXT}\n— PeterNeumann {SIGNATURE}\n"
"""Of Go's golang.org/x/mod/sumdb/note."""
SIGNER = Signer("city.example", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def test_gos_note_opens_with_its_key():
    key = VerifierKey.parse(VKEY)
    assert str(key) == VKEY
    assert open_note(NOTE, key) == TEXT


def test_notes_are_signed_and_other_signatures_passed_over():
    note = SIGNER.sign(TEXT)
    assert open_note(note, VerifierKey.parse(str(SIGNER.verifier))) == TEXT
    both = note + f"— PeterNeumann {SIGNATURE}\n"
    assert open_note(both, SIGNER.verifier) == open_note(both, VerifierKey.parse(VKEY)) == TEXT


@given(st.integers(0, len(NOTE.encode()) - 1), st.integers(1, 255))
@settings(deadline=None)
def test_no_byte_of_a_note_can_change(place, change):
    spoilt = bytearray(NOTE.encode())
    spoilt[place] ^= change
    try:
        text = spoilt.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(NoteError):
        open_note(text, VerifierKey.parse(VKEY))


@pytest.mark.parametrize(
    "text",
    ["", "x", "x+y+z", VKEY[:-1], VKEY.replace("c74f20a3", "c74f20a4"), VKEY.replace("PeterNeumann", "Peter Neumann")],
)
def test_verifier_keys_that_are_none(text):
    with pytest.raises(NoteError, match="verifier key"):
        VerifierKey.parse(text)


@pytest.mark.parametrize("name", ["", "a+b", "a b", "a\n"])
def test_keys_want_a_name(name):
    with pytest.raises(NoteError, match="key's name"):
        Signer(name, SIGNER.key)


@pytest.mark.parametrize("text", ["no newline", "a\tb\n", "\x00\n"])
def test_texts_that_cannot_be_signed(text):
    with pytest.raises(NoteError, match="note:"):
        SIGNER.sign(text)


def test_checkpoints_are_read_as_they_are_written():
    checkpoint = Checkpoint("city.example/north", 2**40, bytes(range(32)), ('{"log":"north"}',))
    assert Checkpoint.parse(checkpoint.text()) == checkpoint
    assert checkpoint.text().splitlines()[1:3] == [str(2**40), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]


@pytest.mark.parametrize(
    "text",
    [
        "city.example/north\n5\n",
        "\n5\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "a\n05\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "a\n-5\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "a\n5\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=\n",
        "a\n5\nAAEC\n",
        "a\n5\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\nx\n",
    ],
)
def test_checkpoints_that_are_none(text):
    with pytest.raises(NoteError):
        Checkpoint.parse(text)
