"""The ledger's key, and which heads are believed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from stack import _environment

from sfumato.agents.ledger import keys
from sfumato.agents.ledger.account import Log
from sfumato.agents.ledger.entries import Place, read_audit
from sfumato.agents.ledger.heads import HeadError, HeadStore
from sfumato.agents.ledger.keys import KeyFileError
from sfumato.agents.ledger.note import Checkpoint, NoteError
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.schemas.frame import Message
from sfumato.schemas.head import Head
from sfumato.schemas.topics import LEDGER_HEADS
from tests.ledgering import NOW, event


@pytest.fixture
def own(tmp_path) -> Settings:
    return Settings(state_dir=tmp_path / "state", ledger_origin="city.example")


def test_a_key_is_made_once_and_nobody_else_may_read_it(own):
    path = own.state_dir / "ledger.key"
    first = keys.load(own)
    assert keys.load(own).verifiers == first.verifiers
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(first.signer.verifier).startswith("city.example+")
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.load(own)


def test_a_configured_key_is_never_made(own, tmp_path):
    missing = own.model_copy(update={"ledger_key_file": tmp_path / "ledger.pem"})
    with pytest.raises(KeyFileError, match="put the key back"):
        keys.load(missing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_files_that_hold_no_key(own, tmp_path, text):
    path = tmp_path / "ledger.pem"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="SFUMATO_LEDGER_KEY_FILE") as caught:
        keys.load(own.model_copy(update={"ledger_key_file": path}))
    assert "AAAA" not in str(caught.value)
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(KeyFileError, match=r"key 1 of .* is no unencrypted Ed25519 key"):
        keys.load(own.model_copy(update={"ledger_key_file": path}))


def test_a_new_key_on_top_signs_and_the_old_one_is_believed(own, tmp_path):
    old = keys.load(own)
    other = keys.load(own.model_copy(update={"state_dir": tmp_path / "other"}))
    path = tmp_path / "both.pem"
    path.write_bytes(
        (tmp_path / "other" / "ledger.key").read_bytes()
        + b"before 2026:\n"
        + (own.state_dir / "ledger.key").read_bytes()
    )
    path.chmod(0o600)
    both = keys.load(own.model_copy(update={"ledger_key_file": path}))
    assert both.verifiers == (*other.verifiers, *old.verifiers)
    for signer in (old.signer, other.signer, both.signer):
        assert both.open(signer.sign("text\n")) == "text\n"
    with pytest.raises(NoteError, match="not signed"):
        old.open(both.signer.sign("text\n"))


def test_the_command_prints_the_public_key_alone(own):
    command = [sys.executable, "-m", "sfumato.agents.cli", "ledger-key"]
    printed = subprocess.run(command, env=_environment(own), capture_output=True, text=True, timeout=60, check=True)
    assert printed.stdout == f"{keys.load(own).signer.verifier}\n"
    lost = _environment(own.model_copy(update={"ledger_key_file": own.state_dir / "none"}))
    refused = subprocess.run(command, env=lost, capture_output=True, text=True, timeout=60)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "put the key back" in refused.stderr


def sealed_head(settings: Settings, leaves: int, offset: int = 0) -> Head:
    signer, log = keys.load(settings).signer, Log("north", Place("audit", 0))
    for number in range(leaves):
        message = event(number).to_message()
        log.take(read_audit(message.key, message.value, 0), offset + number, 0.0)
    segment = log.seal("audit", NOW, lambda name, version: None)
    checkpoint = Checkpoint(f"{signer.name}/north", segment.size, log.tree.root(), (segment.model_dump_json(),))
    log.note = signer.sign(checkpoint.text())
    return log.head(signer.name, NOW)


def test_the_longest_head_is_the_newest_and_one_that_is_not_ours_is_none(own, tmp_path):
    longer, shorter = sealed_head(own, 5), sealed_head(own, 3)
    store = HeadStore(own, keys.load(own))
    for head in (longer, shorter):
        message = head.to_message()
        store.take(message.key, message.value, NOW)
    stranger = own.model_copy(update={"state_dir": tmp_path / "stranger"})
    forged = [
        sealed_head(stranger, 9),
        longer.model_copy(update={"size": 4}),
        longer.model_copy(update={"note": shorter.note}),
        longer.model_copy(update={"frontier": tuple(reversed(longer.frontier))}),
        longer.model_copy(update={"log": "south"}),
    ]
    for head in forged:
        store.take(head.to_message().key, head.to_message().value, NOW)
    store.take(b"north", b"{}", NOW)
    other_origin = longer.model_copy(update={"origin": "elsewhere.example"})
    store.take(b"north", other_origin.to_message().value, NOW)
    assert store.newest() == [longer]
    assert store.came() == [longer, shorter]


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_log_without_a_head_that_can_be_believed_is_a_refusal(topics, tmp_path):
    stranger = topics.model_copy(update={"state_dir": tmp_path / "stranger"})
    producer = Producer(topics, client_id="test")
    for message in (sealed_head(topics, 2).to_message(), Message(b"north", b"{}", [])):
        producer.send(LEDGER_HEADS, message, lambda error: None)
    assert producer.close(10) == 0
    store = HeadStore(topics, keys.load(topics))
    store.start()
    store.close()
    assert [head.size for head in store.newest()] == [2]
    refusing = HeadStore(topics, keys.load(stranger))
    with pytest.raises(HeadError, match="log north: "):
        refusing.start()
    refusing.close()
