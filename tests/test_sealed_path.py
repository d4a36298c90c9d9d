"""Sealed raw footage on its way: what lies on Kafka, what the ingestor and the anonymizer do without a key."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from stack import Stack, demonstration_policy

from sfumato.agents.anonymize import Ending
from sfumato.agents.cameras import Camera
from sfumato.agents.footage import sealing, stores
from sfumato.agents.footage.key_files import KeyFiles
from sfumato.agents.footage.sealing import Opener, Sealer
from sfumato.agents.footage.stores import KeyGoneError, KeyStoreError
from sfumato.agents.ingest import Feed, Outlet
from sfumato.agents.produce import Producer
from sfumato.agents.reconcile import TopicReader
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.epoch import EpochRecord
from sfumato.schemas.frame import Message, RawFrame
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import AUDIT, EPOCHS, FRAMES_ANONYMIZED, FRAMES_RAW, Topic
from tests.ingesting import Ingest, read_topic
from tests.test_anonymize import POLICY, Direct, Record, Scripted, noise, record
from tests.test_end_to_end import ended, raw, send, settle
from tests.test_ingest import picture, stills

PICTURE = images.encode(noise(), 95)


@pytest.fixture
def store(tmp_path: Path) -> KeyFiles:
    return KeyFiles(tmp_path / "keys")


def opening(store: stores.KeyStore) -> Direct:
    return Direct(Engine(Ensemble([Scripted()]), Limits()), lambda frame: POLICY, Opener(store))


def sealed(store: stores.KeyStore, given: Record) -> Record:
    message = Sealer(store).seal(RawFrame.from_message(given.key, given.value, given.headers)).to_message()
    return replace(given, value=message.value, headers=message.headers)


def end(store: stores.KeyStore, given: Record) -> AuditEvent:
    (ending,) = opening(store).end([given])
    assert isinstance(ending, Ending)
    assert (ending.output is None) == (ending.audit.outcome is Outcome.DROPPED)
    return ending.audit


def test_an_opened_frame_is_audited_as_the_camera_sent_it(store: KeyFiles) -> None:
    audit = end(store, sealed(store, record(PICTURE)))
    assert audit.outcome is Outcome.MASKED
    assert (audit.input_bytes, audit.input_sha256) == (len(PICTURE), hashlib.sha256(PICTURE).hexdigest())
    assert end(store, sealed(store, record(b""))).reason is Reason.EMPTY


def test_what_cannot_be_opened_is_dropped_under_its_identity(store: KeyFiles, tmp_path: Path) -> None:
    given = sealed(store, record(PICTURE, sequence=5))
    assert given.value is not None
    foreign = KeyFiles(tmp_path / "foreign")
    foreign.make("south", stores.hour_of(datetime.now(UTC)))
    broken = replace(given, value=given.value[:-1] + bytes([given.value[-1] ^ 1]))
    cases = [
        (store, record(PICTURE, sequence=5), Reason.NOT_SEALED),
        (store, broken, Reason.SEAL_BROKEN),
        (foreign, given, Reason.KEY_MISSING),
    ]
    for asked, what, reason in cases:
        audit = end(asked, what)
        assert (audit.outcome, audit.reason) == (Outcome.DROPPED, reason)
        assert (audit.id, audit.camera, audit.epoch, audit.sequence) == ("north/1/5", "north", 1, 5)
        assert what.value is not None
        assert (audit.input_bytes, audit.input_sha256) == (len(what.value), hashlib.sha256(what.value).hexdigest())
    store.shred("north", datetime.now(UTC) + timedelta(hours=2))
    audit = end(store, given)
    assert audit.reason is Reason.KEY_SHREDDED
    assert audit.detail is not None
    assert "was shredded at 20" in audit.detail


def test_a_store_that_does_not_answer_ends_nothing(store: KeyFiles, tmp_path: Path) -> None:
    """The frame has no outcome: the worker leaves, and its next start reads the frame again."""
    given = sealed(store, record(PICTURE))
    with pytest.raises(KeyStoreError):
        opening(KeyFiles(tmp_path / "not mounted")).end([given])
    assert end(store, given).outcome is Outcome.MASKED


# The ingestor


class Flaky:
    """A sealer whose key store answers only from the n-th time on; None: never."""

    def __init__(self, store: KeyFiles, answers_from: int | None, error: Exception) -> None:
        self._sealer = Sealer(store)
        self._answers_from = answers_from
        self._error = error
        self.asked = 0

    def seal(self, frame: RawFrame) -> RawFrame:
        self.asked += 1
        if self._answers_from is None or self.asked < self._answers_from:
            raise self._error
        return self._sealer.seal(frame)


@pytest.mark.parametrize(
    ("error", "answers_from", "pace", "sequences", "dropped"),
    [
        (KeyStoreError("no answer"), None, "real-time", [], {Reason.KEY_UNAVAILABLE: 3}),
        (KeyStoreError("no answer"), 2, "real-time", [0, 1], {Reason.KEY_UNAVAILABLE: 1}),
        (KeyStoreError("no answer"), 3, "fast", [0, 1, 2], {}),  # waits instead
        (KeyGoneError("a", datetime.now(UTC), datetime.now(UTC)), None, "fast", [], {Reason.KEY_SHREDDED: 3}),
    ],
)
def test_what_cannot_be_sealed_is_not_sent(
    store: KeyFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    answers_from: int | None,
    pace: str,
    sequences: list[int],
    dropped: dict[Reason, int],
) -> None:
    contents = [picture(1), picture(2), picture(3)]
    outlet = Outlet(Settings(bootstrap_servers="127.0.0.1:1"), 1, Flaky(store, answers_from, error))  # type: ignore[arg-type]
    sent: list[tuple[Topic, Message]] = []

    def try_send(topic: Topic, message: Message, on_delivery) -> bool:
        sent.append((topic, message))
        on_delivery(None)
        return True

    monkeypatch.setattr(outlet.producer, "try_send", try_send)
    camera = Camera.model_validate({"id": "a", "url": stills(tmp_path / "stills", *contents), "fps": 100, "pace": pace})
    Feed(camera, outlet).run()
    frames = [RawFrame.from_message(*message) for topic, message in sent if topic is FRAMES_RAW]
    assert [frame.id.sequence for frame in frames] == sequences  # no gap
    assert [Opener(store).open(frame).payload for frame in frames] == contents[3 - len(sequences) :]
    assert not any(content in message.value for _, message in sent for content in contents)
    last = EpochRecord.from_message([message for topic, message in sent if topic is EPOCHS][-1].value)
    assert (last.state, last.dropped) == ("ended", dropped)
    assert outlet.admission.total == 0
    outlet.producer.close(0)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_without_a_key_store_the_ingestor_does_not_start(topics: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = stills(tmp_path / "stills", picture())
    with Ingest(topics, tmp_path, "--camera", f"a={url}", keys_dir=tmp_path / "file") as ingest:
        assert ingest.wait() == 1
    assert "Error: SFUMATO_KEYS_DIR: " in ingest.log
    assert "Traceback" not in ingest.log
    assert read_topic(topics, EPOCHS) == read_topic(topics, FRAMES_RAW) == []


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_sealing_can_be_switched_off(topics: Settings, tmp_path: Path) -> None:
    contents = [picture(1), picture(2)]
    url = stills(tmp_path / "stills", *contents)
    (tmp_path / "cameras.toml").write_text(f"[[camera]]\nid = 'a'\nurl = '{url}'\npace = 'fast'")
    with Ingest(topics, tmp_path, "--cameras", str(tmp_path / "cameras.toml"), raw_sealing="off") as ingest:
        assert ingest.wait() == 0, ingest.log
    assert [message.value() for message in read_topic(topics, FRAMES_RAW)] == contents
    assert "raw frames lie on Kafka in the clear" in ingest.log


# All of it


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_a_shredded_hour_cannot_be_read_and_its_frames_are_dropped(
    stack: Stack, pictures: list[bytes], tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    earlier = now - timedelta(hours=2)
    stack.publish(demonstration_policy("north"))
    old = [raw("north", n, pictures[n], captured_at=earlier) for n in range(3)]
    send(stack, [(FRAMES_RAW, message) for message in [*old, raw("north", 3, pictures[3])]])
    written = read_topic(stack.settings, FRAMES_RAW)
    assert len(written) == 4
    assert not any(picture[:200] in message.value() for message in written for picture in pictures[:4])

    command = [sys.executable, "-m", "sfumato.agents.cli", "keys", "shred", "--camera", "north", "--yes"]
    command += ["--before", (now - timedelta(hours=1)).isoformat()]
    environment = {"SFUMATO_STATE_DIR": str(stack.settings.state_dir)}
    shredded = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (shredded.returncode, shredded.stdout) == (
        0,
        f'{{"camera": "north", "hour": "{stores.named(stores.hour_of(earlier))}"}}\n',
    )
    assert_unreadable(stores.make(stack.settings), [RawFrame.from_message(*parts(m)) for m in written[:3]])

    clear = raw("north", 4, pictures[4])
    producer = Producer(stack.settings, client_id="test")
    producer.send(FRAMES_RAW, clear, lambda error: None)
    assert producer.close(30) == 0
    send(stack, [(FRAMES_RAW, raw("north", 5, pictures[5])), ended("north", 5)])

    # A worker that sees another folder, or one that is not mounted, drops nothing.
    stack.start("anonymize", keys_dir=tmp_path / "elsewhere")
    stack.wait_for("anonymize", 60, lambda: "is no key store" in stack.log("anonymize").read_text())
    stack.stop("anonymize")
    audits = [AuditEvent.from_message(message.value()) for message in read_topic(stack.settings, AUDIT)]
    assert {audit.reason for audit in audits} <= {Reason.NOT_SEALED}

    stack.start("anonymize")
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)
        report = reader.account.report()
    assert report["dropped"] == {"key_shredded": 3, "not_sealed": 1}
    assert report["masked"] == 2
    assert report["unaccounted"] == report["unpublished"] == 0
    published = read_topic(stack.settings, FRAMES_ANONYMIZED)
    assert {dict(message.headers())["ce_sequence"] for message in published} == {b"3", b"5"}
    for message in [*published, *read_topic(stack.settings, AUDIT)]:
        assert not any(picture[:200] in message.value() for picture in pictures[:6])


def parts(message) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    return message.key(), message.value(), message.headers()


def assert_unreadable(store: stores.KeyStore, frames: list[RawFrame]) -> None:
    """Not by the opener, and not with anything else that the store still holds."""
    kept = [
        store.key(camera, hour.hour)
        for camera in store.cameras()
        for hour in store.hours(camera)
        if not hour.shredded_at
    ]
    assert kept
    for frame in frames:
        with pytest.raises(KeyGoneError):
            Opener(store).open(frame)
        nonce, rest = frame.payload[: sealing.NONCE], frame.payload[sealing.NONCE :]
        for key in kept:
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt(nonce, rest, sealing._bound(frame))
