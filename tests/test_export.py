"""What `sfumato export` and `prove` take from the topics, and what they refuse; segments are sealed by hand here."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import exporting
import pytest

from sfumato.agents.evidence.bundle import Bundle
from sfumato.agents.evidence.export import Wanted, export
from sfumato.agents.evidence.inventory import ExportError
from sfumato.agents.evidence.proof import Proof, verify_proof
from sfumato.agents.evidence.prove import prove
from sfumato.agents.evidence.reading import ReadError
from sfumato.agents.evidence.verify import verify
from sfumato.agents.ledger.note import Checkpoint
from sfumato.agents.settings import Settings
from sfumato.schemas import export as files
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import Message
from sfumato.schemas.policy import digest
from sfumato.schemas.segment import DISCLOSURES_LOG
from sfumato.schemas.topics import AUDIT, DISCLOSURES, FRAMES_ANONYMIZED
from sfumato.schemas.topics import POLICIES as TOPIC_POLICIES
from tests.ingesting import read_topic
from tests.proving import (
    EVENTS,
    FRAMES,
    KEYS,
    POLICIES,
    POLICY,
    SIGNER,
    City,
    Leaf,
    Newer,
    Sender,
    checkpoint,
    frame,
    lately,
)

NONE = 0
"""Seals nothing yet."""

embedded = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


@pytest.fixture
def make(topics: Settings) -> Iterator[Callable[..., City]]:
    send = Sender(topics)
    yield lambda *sizes, dated=lately: City(topics, send, sizes or (4, 7, 12), dated)
    send.close()


@pytest.fixture
def send(topics: Settings) -> Iterator[Sender]:
    """For what is published before there is a city."""
    sender = Sender(topics)
    yield sender
    sender.close()


def test_a_log_is_exported_with_its_frames_and_passes(make: Callable[..., City], tmp_path: Path) -> None:
    city = make()
    account = city.export(tmp_path / "north")
    assert account.report() == {
        "first": 0,
        "size": 12,
        "segments": 3,
        "published": 11,
        "frames": 11,
        "missing_frames": 0,
        "other_copies": 0,
        "without_event": [],
        "unknown_policies": [],
        "ignored_checkpoints": 0,
    }
    assert account.complete
    verdict = verify(tmp_path / "north", KEYS)
    assert verdict.passed, "\n".join(verdict.table())
    lines = (tmp_path / "north" / files.AUDIT).read_bytes().splitlines()
    assert lines == [event.to_message().value for event in city.events]
    assert [path.name for path in tmp_path.iterdir()] == ["north"]


@embedded
def test_a_range_stands_by_itself_and_proves_older_checkpoints(make: Callable[..., City], tmp_path: Path) -> None:
    city = make()
    sealed_at = [segment.sealed_at for _, segment in city.sealed]
    ((between, _),) = city.seal((3,))  # another ledger's, within a segment
    for name, note in (("old.txt", city.sealed[0][0]), ("between.txt", between), ("again.txt", city.sealed[0][0])):
        (tmp_path / name).write_bytes(note)
    kept = [tmp_path / "old.txt", tmp_path / "between.txt", tmp_path / "again.txt"]
    account = city.export(tmp_path / "last", since=sealed_at[1] + timedelta(microseconds=1), kept=kept)
    assert (account.first, account.size, account.segments) == (7, 12, 1)
    assert len(list((tmp_path / "last" / files.CHECKPOINTS).iterdir())) == 1
    verdict = verify(tmp_path / "last", KEYS, kept)
    assert verdict.passed, "\n".join(verdict.table())
    account = city.export(tmp_path / "first", until=sealed_at[0])
    assert (account.first, account.size, account.frames, account.copies) == (0, 4, 4, 0)
    told = verify(tmp_path / "first", KEYS).document()
    assert told["verdict"] == "passed"
    assert told["checks"]["copies"]["status"] == "ok"  # frames of the segments after are none
    assert told["checks"]["copies"]["detail"].startswith("none among 11 messages of 2 partitions")
    with pytest.raises(ExportError, match="nothing was sealed since"):
        city.export(tmp_path / "none", since=sealed_at[-1] + timedelta(seconds=1))
    (tmp_path / "old.txt").write_bytes(exporting.seal(SIGNER, EVENTS, [4], log="south")[0][0])
    with pytest.raises(ExportError, match="not of north"):
        city.export(tmp_path / "none", kept=kept)
    assert not (tmp_path / "none").exists()


@embedded
def test_events_sealed_late_are_in_the_range_of_when_they_happened(make: Callable[..., City], tmp_path: Path) -> None:
    city = make(NONE)
    city.send(*(checkpoint(note) for note, _ in city.seal((4, 7, 12), lag=timedelta(seconds=100))))
    assert city.export(tmp_path / "north", until=city.events[6].audited_at, frames=False).size == 7


@embedded
def test_copies_that_no_event_names_are_listed(make: Callable[..., City], send: Sender, tmp_path: Path) -> None:
    """In any partition, of any epoch, with or without an identity, also of a time when all was dropped. Frames that
    were audited before and after the export are none, nor is one that was published just now."""
    broken = Message(b"north", b"\xff\xd8\xffy", [])
    for partition in (0, 1):
        send(frame(2, b"\xff\xd8\xffother"), partition=partition)
    send(*(frame(n, b"\xff\xd8\xffx") for n in (12, 40)), frame(0, b"\xff\xd8\xffx", epoch=1))
    send((FRAMES_ANONYMIZED, broken))
    city = make(5, 6, 12)
    city.send(frame(2, FRAMES[2]), frame(5, b"\xff\xd8\xffwas dropped"), frame(41, b"\xff\xd8\xffjust now"))
    listed = Counter([(None, False), (0, False), (2, True), (2, True), (5, True), (40, False), (12, False)])
    dropped = city.sealed[1][1].sealed_at
    for name, range, published in (("all", {}, 11), ("dropped", {"since": dropped, "until": dropped}, 0)):
        account = city.export(tmp_path / name, **range)
        assert (account.published, account.frames, account.copies) == (published, published, listed.total())
        assert {f"north/{exporting.EPOCH}/40", "north/1/0"} < set(account.unnamed)
        copies = [json.loads(line) for line in (tmp_path / name / files.COPIES).read_text().splitlines()[1:]]
        assert Counter((copy["sequence"], copy["event"]) for copy in copies) == listed
        verdict = verify(tmp_path / name, KEYS)
        assert verdict.passed
        (told,) = verdict.document()["checks"]["copies"]["notes"]
        assert "of 2 partitions" in told
        assert f"3 whose frame's event names other bytes, {listed.total() - 3} without an event" in told
        if name == "all":  # and now a segment has the event of 12, which the topic holds no longer
            city.events, city.offsets = [*city.events, lately(exporting.event(12, b"x"))], [*city.offsets, 10**6]
            city.send(checkpoint(city.seal((5, 6, 12, 13))[3][0]))
            del listed[12, False]


@embedded
def test_no_time_that_an_event_states_ends_the_export(make: Callable[..., City], tmp_path: Path) -> None:
    strange = {
        4: datetime(2026, 11, 24, 8),
        7: datetime.min.replace(tzinfo=UTC),
        8: datetime.max.replace(tzinfo=UTC),
    }

    def dated(event: AuditEvent) -> AuditEvent:
        at = strange.get(event.sequence or 0)
        return event.model_copy(update={"audited_at": at}) if at else lately(event)

    city = make(dated=dated)
    account = city.export(tmp_path / "north", until=city.sealed[0][1].sealed_at)
    assert (account.size, account.frames, account.copies) == (12, 11, 0)
    assert verify(tmp_path / "north", KEYS).passed


@embedded
def test_a_published_frame_without_an_event_is_named(make: Callable[..., City], tmp_path: Path) -> None:
    city = make(NONE)
    city.events = city.events[:4] + city.events[6:]
    city.offsets = city.offsets[:4] + city.offsets[6:]
    city.send(*(checkpoint(note) for note, _ in city.seal((10,))))
    account = city.export(tmp_path / "north")
    assert account.report()["without_event"] == [f"north/{exporting.EPOCH}/4"]
    told = verify(tmp_path / "north", KEYS)
    assert any("1 without an event" in line for line in told.table())


@embedded
def test_frames_and_policies_that_are_gone_are_counted(make: Callable[..., City], tmp_path: Path) -> None:
    city = make()
    weak = POLICY.model_copy(update={"purpose": "another text under the same version"}).to_message()
    applied = digest(weak.value)
    extra = [*city.events, lately(exporting.event(12, b"never published", policy_sha256=applied))]
    city.send((AUDIT, extra[-1].to_message()), (TOPIC_POLICIES, weak))
    value = extra[-1].to_message().value
    (offset,) = [message.offset() for message in read_topic(city.settings, AUDIT) if message.value() == value]
    city.events, city.offsets = extra, [*city.offsets, offset]
    unknown = {**POLICIES, "north@2": "0" * 64}
    city.send(checkpoint(city.seal((4, 7, 12, 13), policies=unknown)[-1][0]))
    account = city.export(tmp_path / "north")
    assert (account.published, account.frames, account.unknown_policies) == (12, 11, ["north@2"])
    assert not account.complete
    verdict = verify(tmp_path / "north", KEYS)
    named = {(failure.check, failure.where) for failure in verdict.failures}
    last = f"north/{exporting.EPOCH}/12"
    assert named == {("frames", last), ("policies", "north@2"), ("policies", last), ("policies", "north@3")} | {
        ("policies", f"{files.POLICIES}, line 2")
    }
    texts = [json.loads(line)["value"] for line in (tmp_path / "north" / files.POLICIES).read_bytes().splitlines()]
    assert {digest(text.encode()) for text in texts} == {applied, POLICIES["north@3"]}
    assert city.export(tmp_path / "without", frames=False).report()["missing_frames"] is None


@embedded
def test_what_the_key_did_not_sign_is_passed_over(make: Callable[..., City], tmp_path: Path) -> None:
    city = make()
    forged = exporting.seal(exporting.signer(2), EVENTS[:6], [20 % 6 + 4])
    city.send(checkpoint(b"\xff\xfe"), checkpoint(forged[0][0]), checkpoint(city.sealed[0][0], "south"))
    account = city.export(tmp_path / "north")
    assert (account.size, account.ignored_checkpoints) == (12, 2)
    with pytest.raises(ReadError, match="holds no segment"):
        export(city.settings, Wanted("south"), KEYS, tmp_path / "south")


@embedded
def test_ledgers_that_cut_at_different_places_make_one_chain(make: Callable[..., City], tmp_path: Path) -> None:
    city = make(4, 7)
    city.send(*(checkpoint(note) for note, _ in city.seal((5, 9, 12))))
    city.send(*(checkpoint(note) for note, _ in city.seal((7, 10))[1:]))  # a dead end
    account = city.export(tmp_path / "north")
    assert (account.size, account.segments) == (12, 3)
    assert verify(tmp_path / "north", KEYS).passed


@embedded
def test_a_log_whose_oldest_segments_are_deleted_is_exported_from_the_next_on(
    make: Callable[..., City], tmp_path: Path
) -> None:
    city = make(NONE)
    sealed = city.seal((4, 7, 12))
    city.send(*(checkpoint(note) for note, _ in sealed[1:]))
    account = city.export(tmp_path / "north")
    assert (account.first, account.size) == (4, 12)
    assert verify(tmp_path / "north", KEYS).passed
    (tmp_path / "proof").write_text(prove(city.settings, FrameId("north", exporting.EPOCH, 9), KEYS).text(), newline="")
    assert verify_proof(tmp_path / "proof", KEYS).passed
    (tmp_path / "old.txt").write_bytes(sealed[0][0])
    with pytest.raises(ReadError, match="no longer holds the segment that ends with leaf 3"):
        city.export(tmp_path / "since", since=sealed[-1][1].sealed_at, kept=[tmp_path / "old.txt"])


@embedded
def test_a_hole_between_segments_is_named(make: Callable[..., City], tmp_path: Path) -> None:
    city = make(NONE)
    first, _, last = city.seal((4, 7, 12))
    city.send(checkpoint(first[0]), checkpoint(last[0]))
    with pytest.raises(ReadError, match="leaves 4 to 6 are in no segment"):
        city.export(tmp_path / "north")


@embedded
def test_a_fork_is_refused(make: Callable[..., City], tmp_path: Path) -> None:
    city = make()
    city.events[1] = exporting.event(1, b"something else")
    city.send(checkpoint(city.seal((4,))[0][0]))
    with pytest.raises(ReadError, match="forked: the ledger signed two heads of 4 leaves"):
        city.export(tmp_path / "north")
    segment = city.seal((5,))[0][1].model_copy(update={"log": "south", "frontier": ("0" * 64,)})
    text = Checkpoint(f"{SIGNER.name}/south", 5, bytes.fromhex(segment.root), (segment.model_dump_json(),)).text()
    city.send(checkpoint(SIGNER.sign(text).encode(), "south"))
    with pytest.raises(ReadError, match="signed a segment of 5 leaves that contradicts itself"):
        prove(city.settings, FrameId("south", exporting.EPOCH, 1), KEYS)
    assert list(tmp_path.iterdir()) == []


@embedded
def test_events_that_the_topic_no_longer_holds_are_refused(make: Callable[..., City], tmp_path: Path) -> None:
    city = make(NONE)
    city.events[1] = exporting.event(1, b"something else")
    city.send(checkpoint(city.seal((12,))[0][0]))
    with pytest.raises(ReadError, match="not what was sealed as leaves 0 to 11"):
        city.export(tmp_path / "north")
    city.offsets[-1] += 1000
    city.send(checkpoint(exporting.seal(SIGNER, city.events, [11], partition=city.partition)[0][0]))
    assert list(tmp_path.iterdir()) == []


@embedded
def test_a_proof_shows_one_frame(make: Callable[..., City], tmp_path: Path) -> None:
    city = make(dated=lambda event: Newer(**dict(lately(event))) if event.sequence == 9 else lately(event))
    for sequence in (0, 5, 11):
        found = prove(city.settings, FrameId("north", exporting.EPOCH, sequence), KEYS)
        path = tmp_path / f"{sequence}.tlog-proof"
        path.write_text(found.text(), newline="")
        verdict = verify_proof(path, KEYS)
        assert verdict.passed, "\n".join(verdict.table())
        assert found.event == city.events[sequence].to_message().value
        assert Proof.parse(found.text()) == found
    found = prove(city.settings, FrameId("north", exporting.EPOCH, 9), KEYS)
    assert found.event == city.events[9].to_message().value
    path.write_text(found.text(), newline="")
    assert [failure.check for failure in verify_proof(path, KEYS).failures] == ["events"]
    with pytest.raises(ReadError, match="no segment has its audit event"):
        prove(city.settings, FrameId("north", exporting.EPOCH, 12), KEYS)


@embedded
def test_a_log_without_frames_is_exported_too(make: Callable[..., City], tmp_path: Path) -> None:
    """Disclosures: each once by its id, also where it comes again segments later."""
    city = make(NONE)
    told = [
        (id.encode(), f'{{"n": {n},\n"id": "{id}"}}'.encode()) for n, id in enumerate(["a", "b", "a", "c", "b", "d"])
    ]
    city.send(*((DISCLOSURES, Message(b"request", value, [("ce_id", id)])) for id, value in told))
    leaves = [value for n, (_, value) in enumerate(told) if n in (0, 1, 3, 5)]
    events = [Leaf(value, city.events[n]) for n, value in enumerate(leaves)]
    sealed = exporting.seal(
        SIGNER,
        events,
        (2, 4),
        log=DISCLOSURES_LOG,
        offsets=[0, 1, 3, 5],
        counted=False,  # type: ignore[arg-type]
    )
    city.send(*(checkpoint(note, DISCLOSURES_LOG) for note, _ in sealed))
    for name, since in (("all", None), ("last", sealed[1][1].sealed_at)):
        account = export(city.settings, Wanted(DISCLOSURES_LOG, since), KEYS, tmp_path / name)
        assert (account.first, account.size, account.complete) == (0 if name == "all" else 2, 4, True)
        assert verify(tmp_path / name, KEYS).passed
    lines = (tmp_path / "all" / files.AUDIT).read_bytes().splitlines()
    assert [files.leaf(line) for line in lines] == leaves
    (tmp_path / "all" / files.AUDIT).write_bytes(b"\n".join(lines[::-1]) + b"\n")
    assert not verify(tmp_path / "all", KEYS).passed


@embedded
def test_a_log_without_frames_needs_no_events_of_before_the_range(make: Callable[..., City], tmp_path: Path) -> None:
    """Its first segment is of events that the topic does not hold any more."""
    city = make(NONE)
    told = [f'{{"id": "{id}"}}'.encode() for id in "abacd"]
    city.send(*((AUDIT, Message(b"", value, [])) for value in told), partition=0)
    offsets = [
        found.offset() for found in read_topic(city.settings, AUDIT) if found.partition() == 0 and found.value() in told
    ]
    leaves = [Leaf(value, city.events[n]) for n, value in enumerate([b"deleted", told[1], told[3], told[4]])]
    places = {"log": "_unreadable-0", "offsets": [offsets[n] for n in (0, 1, 3, 4)], "counted": False}
    sealed = exporting.seal(SIGNER, leaves, (2, 4), **places)  # type: ignore[arg-type]
    city.send(*(checkpoint(note, "_unreadable-0") for note, _ in sealed))
    account = export(city.settings, Wanted("_unreadable-0", sealed[1][1].sealed_at), KEYS, tmp_path / "last")
    assert (account.first, account.size) == (2, 4)
    assert verify(tmp_path / "last", KEYS).passed
    with pytest.raises(ReadError, match="not what was sealed as leaves 0 to 1"):
        export(city.settings, Wanted("_unreadable-0"), KEYS, tmp_path / "all")


@embedded
def test_without_topics_the_remedy_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="`sfumato topics` creates it"):
        export(settings, Wanted("north"), KEYS, tmp_path / "north")


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Bundle(tmp_path / "north") as bundle:  # noqa: PT012
        bundle.put("frames/one.jpg", b"x")
        assert not (tmp_path / "north").exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()
    with pytest.raises(ExportError, match="is there already"):
        Bundle(tmp_path / "north")
    with pytest.raises(ExportError, match="No such file"):
        Bundle(tmp_path / "nowhere" / "north")
    shutil.rmtree(tmp_path / "north")
