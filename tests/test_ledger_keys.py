"""The ledger's key, and which heads are believed."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from stack import _environment

from sfumato.agents.ledger import keys
from sfumato.agents.ledger.account import Log
from sfumato.agents.ledger.checkpoints import newest_segments
from sfumato.agents.ledger.entries import Place, read_audit
from sfumato.agents.ledger.heads import HeadStore
from sfumato.agents.ledger.keys import KeyFileError
from sfumato.agents.ledger.note import Checkpoint, NoteError, check_text
from sfumato.agents.ledger.seal import make_book
from sfumato.agents.ledger.stamp import DOMAIN, stamp, unstamp
from sfumato.agents.policies import PolicyStore
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.schemas.frame import Message
from sfumato.schemas.head import Cover, Head, HeadError, KnownEpoch
from sfumato.schemas.topics import LEDGER, LEDGER_HEADS, Topic
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
        take(store, written(own, head))
    stranger = own.model_copy(update={"state_dir": tmp_path / "stranger"})
    wrong = [
        {"size": 4},
        {"note": shorter.note},
        {"frontier": tuple(reversed(longer.frontier))},
    ]
    forged = [
        written(stranger, sealed_head(stranger, 9)),
        *(written(own, longer.model_copy(update=changed)) for changed in wrong),
        written(own, longer)._replace(key=b"south"),
        longer.to_message(),
        Message(b"north", b"{}", []),
        Message(b"north", b"\n{}", []),
    ]
    for message in forged:
        take(store, message)
    assert len(store._refused) == 2
    other_origin = longer.model_copy(update={"origin": "elsewhere.example"})
    take(store, written(own, other_origin))
    assert store.newest() == [longer]
    assert store.came() == [longer, shorter]


def written(settings: Settings, record: Head | Cover) -> Message:
    return stamp(record.to_message(), keys.load(settings).signer)


def take(store: HeadStore, message: Message) -> None:
    store.take(message.key, message.value, NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"next_offset": 7},
        {"epochs": (KnownEpoch(epoch=1, runs=((0, 99),)),)},
        {"epochs": (KnownEpoch(epoch=1, runs=((0, 4),), missing=((5, 9),)),)},
        {"ids": ("0" * 64,)},
        {"recent": ()},
        {"stopped": "because"},
        {"size": 0, "frontier": (), "note": "", "stopped": "because"},
    ],
)
@pytest.mark.parametrize("stamped_before", [True, False])
def test_nothing_of_a_head_is_believed_that_the_ledger_has_not_signed(own, changed, stamped_before):
    """A head says which frames have a leaf already: whoever could write that would make frames vanish."""
    head = sealed_head(own, 5)
    forged = head.model_copy(update=changed).to_message()
    assert forged.value != head.to_message().value
    if stamped_before:
        forged = forged._replace(value=written(own, head).value.partition(b"\n")[0] + b"\n" + forged.value)
    store = HeadStore(own, keys.load(own))
    take(store, forged)
    assert store.newest() == store.came() == []
    assert store._refused.keys() == {"north"}


def test_a_cover_counts_that_the_ledger_has_signed_for_its_partition(own):
    cover = Cover(origin=own.ledger_origin, topic="audit", partition=0, offset=5, sizes={"north": 5})
    farther = cover.model_copy(update={"offset": 10**9, "sizes": {}})
    store = HeadStore(own, keys.load(own))
    take(store, written(own, cover))
    elsewhere = cover.model_copy(update={"partition": 1})
    forged = [
        farther.to_message(),
        farther.to_message()._replace(value=written(own, cover).value.partition(b"\n")[0] + farther.to_message().value),
        written(own, farther)._replace(key=elsewhere.key),
        stamp(farther.to_message()._replace(key=elsewhere.key), keys.load(own).signer),
    ]
    for message in forged:
        take(store, message)
    assert store.covers() == [cover]
    take(store, written(own, cover.model_copy(update={"offset": 3})))  # an older one over it
    assert store.covers() == [cover]
    take(store, written(own, farther))
    assert store.covers() == [farther]


def test_a_signature_is_of_one_key_and_never_of_a_checkpoint(own):
    """Also where somebody could choose what the other one says."""
    signer = keys.load(own).signer
    note = signer.sign("text\n")
    signature = base64.b64decode(note.split()[-1])[4:]
    for value in (b"text\n", b"{}"):
        line = base64.b64encode(signer.verifier.id + signature)
        with pytest.raises(NoteError, match="not signed"):
            unstamp(b"", line + b"\n" + value, [signer.verifier])
    message = stamp(Message(b"north", b"{}", []), signer)
    assert unstamp(b"north", message.value, [signer.verifier]) == b"{}"
    for key in (b"south", b"", None):
        with pytest.raises(NoteError, match="not signed"):
            unstamp(key, message.value, [signer.verifier])
    with pytest.raises(NoteError):
        check_text((DOMAIN + b"north{}\n").decode())


def test_a_head_that_an_old_key_has_signed_is_believed_while_its_key_is_there(own, tmp_path):
    old, other = keys.load(own), keys.load(own.model_copy(update={"state_dir": tmp_path / "other"}))
    head = sealed_head(own, 5)
    cover = Cover(origin=own.ledger_origin, topic="audit", partition=0, offset=5, sizes={"north": 5})
    for believed, verifiers in ((True, (*other.verifiers, *old.verifiers)), (False, other.verifiers)):
        store = HeadStore(own, keys.Keys(other.signer, verifiers))
        for record in (head, cover):
            take(store, written(own, record))
        assert store.newest() == [head] * believed
        assert store.covers() == [cover] * believed


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_what_the_topics_tell_of_logs_and_when_that_is_a_refusal(topics, tmp_path):
    """Of what is published, the farthest checkpoint counts, whatever stands behind it."""
    stranger, other = (
        topics.model_copy(update=changed)
        for changed in ({"state_dir": tmp_path / "stranger"}, {"ledger_origin": "elsewhere.example"})
    )
    longest = sealed_head(topics, 9).note
    forged = keys.load(stranger).signer.sign(longest[: longest.rindex("\n\n") + 1])
    notes = [sealed_head(topics, 5).note, sealed_head(topics, 3).note, forged, f"{topics.ledger_origin}/north\n99\n"]
    sent = [(LEDGER, Message(b"north", note.encode(), [])) for note in [*notes, sealed_head(other, 8).note]]
    garbage = Message(b"north", b"{}", [])
    send(topics, *sent, (LEDGER_HEADS, written(topics, sealed_head(topics, 2))), (LEDGER_HEADS, garbage))
    store = started(topics, keys.load(topics))
    assert [head.size for head in store.newest()] == [2]
    assert [(segment.log, segment.size) for segment in store.segments()] == [("north", 5)]
    assert newest_segments(topics, keys.load(topics), most=2) == []
    with pytest.raises(HeadError, match="log north: "):
        started(topics, keys.load(stranger))
    send(topics, (LEDGER_HEADS, garbage._replace(key=b"@audit/0")))
    with pytest.raises(HeadError, match="log @audit/0: "):
        started(topics, keys.load(topics))


def send(settings: Settings, *messages: tuple[Topic, Message]) -> None:
    producer = Producer(settings, client_id="test")
    for topic, message in messages:
        producer.send(topic, message, lambda error: None)
    assert producer.close(10) == 0


def started(settings: Settings, trusted: keys.Keys) -> HeadStore:
    """What it says when it has started; closed."""
    store = HeadStore(settings, trusted)
    try:
        store.start()
    finally:
        store.close()
    return store


def test_the_end_of_an_epoch_waits_as_long_as_raw_frames_are_kept(own):
    settings = own.model_copy(update={"raw_retention_minutes": 3})
    assert make_book(settings, keys.load(own), PolicyStore(settings)).rules.raw == 180.0
