"""The dossier, from a real broker with what a small pipeline left there: every figure, every gap, nothing made up."""

from __future__ import annotations

import json
import re
from contextlib import closing

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from sfumato.agents import policies, provision
from sfumato.agents.access.keys import Keys
from sfumato.agents.database import Database
from sfumato.agents.dossier import frames
from sfumato.agents.dossier.collect import DrillsError, collect, read_drills
from sfumato.agents.dossier.facts import Absent
from sfumato.agents.dossier.markup import JUDGE
from sfumato.agents.dossier.write import write
from sfumato.agents.ledger.note import Checkpoint, Signer
from sfumato.agents.settings import Settings
from sfumato.schemas.controller import Controller
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.segment import Run
from sfumato.schemas.topics import FINDS, FRAMES_ANONYMIZED, LEDGER, TOPICS, Topic
from tests.dossiers import (
    DAY,
    NOW,
    SIGNER,
    letters,
    listed,
    made,
    note,
    policy,
    populate,
    sealed,
    segment,
    send,
    soon,
    table,
    tables,
)
from tests.test_api_audit import event


@pytest.fixture
def running(topics: Settings) -> Settings:
    return populate(topics)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_dossier_says_what_the_system_is_and_did(running, tmp_path):
    record, annex = made(collect(running, soon(), DAY), tmp_path)
    assert letters(record) == [*"abcdefg"]
    assert letters(annex) == [*"abcd"]
    assert table(annex, "Camera", "Frames") == {
        "north": ["10", "9", "0", "0", "1", "0", "1", "0"],
        "attic": ["3", "0", "3", "0", "0", "0", "0", "0"],
        "(no camera)": ["1", "0", "0", "1", "0", "0", "0", "0"],
        "all": ["14", "9", "3", "1", "1", "0", "1", "0"],
    }
    assert table(annex, "Reason for a full mask or a drop") == {"invalid_envelope": ["1"], "no_policy": ["3"]}
    assert table(annex, "Camera", "Policy that applies") == {
        "attic": ["none: fully masked", "-"],
        "north": ["north", "-"],
        "south-1": ["south-*", "suspended: leaks"],
    }
    assert table(annex, "Camera", "Seen unmasked") == {"north": ["face", "2"]}
    assert next(iter(table(annex, "When (UTC)").values()))[:2] == ["south-1", "suspended"]
    assert "undecodable: 6" in annex
    weights = [row for each in tables(annex) if each[0][0] == "Detector" for row in each[1:]]
    assert {row[0]: row[3] for row in weights if row[1] == "masking"}["centerface"].startswith("09189deaaf8646c5")
    assert {row[4] for row in weights} == {"MIT", "Apache-2.0"}
    # retention is the broker's, and held against the policies
    kept = table(record, "Topic")
    assert kept["frames.raw"][1:] == ["10 minutes", "10 minutes"]
    assert kept["suspensions"][1] == "for ever"
    judged = listed(record, JUDGE)
    assert "policy south-*: states 1 h; the broker keeps 1 day. Which is right?" in judged
    assert not any("policy north: states" in each for each in judged)
    assert any("may not delete anything" in each for each in judged)  # the embedded broker


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_apache_kafka_says_what_it_really_keeps(topics, tmp_path):
    admin = AdminClient({"bootstrap.servers": topics.bootstrap_servers})
    name = topics.topic(FRAMES_ANONYMIZED)
    entry = ConfigEntry("retention.ms", str(3 * 3_600_000), incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    admin.incremental_alter_configs([change])[change].result(20)
    policies.publish(topics, [policy("north", retention_hours=2), policy("south", retention_hours=3)])
    record, _ = made(collect(topics, soon(), DAY), tmp_path)
    assert table(record, "Topic")["frames.anonymized"][1:] == ["3 hours", "1 day"]
    judged = listed(record, JUDGE)
    assert [each for each in judged if "the broker keeps" in each] == [
        "policy north: states 2 h; the broker keeps 3 hours. Which is right?"
    ]
    assert not any("may not delete anything" in each for each in judged)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_what_is_not_there_is_said_and_nothing_is_made_up(settings, tmp_path):
    provision.create(settings, tuple(topic for topic in TOPICS if topic not in (LEDGER, FINDS)))
    record, annex = made(collect(settings, soon(), DAY), tmp_path)
    missing = listed(annex, "What is missing")
    assert "finds of the second look: the topic finds is missing" in missing
    assert "the figures: the topic audit holds no event of this span" in missing
    assert "a valid policy: without one every frame is fully masked" in missing
    assert any(each.startswith("API keys: there is no database") for each in missing)
    assert any(each.startswith("results of the fault drills") for each in missing)
    assert letters(record) == [*"abcdefg"]
    assert {"Controller: name", "Data protection officer: contact", "categories of data subjects"} < {
        *listed(record, "What is missing")
    }
    assert not (settings.state_dir / "sfumato.db").exists()
    assert not (settings.state_dir / "sealing.key").exists()


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_the_same_facts_make_the_same_files_and_no_secret_is_in_them(running, tmp_path):
    secretive = running.model_copy(
        update={
            "keys_store": "environment",
            "keys_secret": SecretStr("c2VjcmV0" * 5),
            "kafka_password": SecretStr("hunter2"),
            "oidc_issuer": "https://user:hunter3@login.example/realms/city",
            "outbound_allow": ["hunter4.example"],
            "rate_limit_url": "redis://:hunter5@cache/0",
        }
    )
    broken = secretive.model_copy(update={"database_url": "postgresql://sfumato:hunter6@127.0.0.1:1/none"})
    facts = collect(secretive, soon(), DAY)
    first = write(facts, Controller(), tmp_path / "a")
    write(facts, Controller(), tmp_path / "b")
    write(collect(broken, soon(), DAY), Controller(), tmp_path / "c")
    assert [path.name for path in first] == ["record.md", "record.html", "assessment.md", "assessment.html"]
    for path in first:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    with closing(Database(running)) as database:
        ids = [key.id for key in Keys(database).list()]
    for path in tmp_path.rglob("*.*"):
        assert not re.search(r"hunter|c2VjcmV0|sfumato_[0-9a-f]{12}_", path.read_text())
    assert all(id in (tmp_path / "a" / "record.md").read_text() for id in ids)
    assert "login.example" in (tmp_path / "a" / "record.md").read_text()
    assert "the database cannot be read" in (tmp_path / "c" / "record.md").read_text()


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_figures_come_from_the_ledger_where_there_is_one(running, tmp_path):
    begun = segment("north", 0, 5, reasons={Reason.NO_POLICY: 1}, missing=(Run(epoch=1, first=7, last=8),))
    later = segment("north", 5, 9, found_late=1, invalid=1, outcomes={Outcome.MASKED: 3}, detectors={"clp": ["9" * 64]})
    send(running, note(begun), note(begun), note(later), note(segment("_disclosures", 0, 3, invalid=3, outcomes={})))
    key = SIGNER.verifier
    _, annex = made(collect(running, soon(), DAY, [key]), tmp_path)
    assert table(annex, "Camera", "Frames")["all"] == ["10", "8", "0", "0", "1", "1", "0", "0"]
    assert f"signature was checked with the key {key}" in annex.replace("\\", "")
    assert f"Frames were looked at by clp with the weight {'9' * 64}, which is none of these. Is it known?" in listed(
        annex, JUDGE
    )
    _, annex = made(collect(running, soon(), DAY), tmp_path)
    assert "Their signatures were not checked" in annex


def flawed(*notes: tuple[Topic, Message]) -> tuple[str, ...]:
    """What is said to be wrong, after a first good segment of five frames; nothing of the flawed is counted."""
    segments = frames.Segments([Signer("other", Ed25519PrivateKey.generate()).verifier, SIGNER.verifier])
    for _, message in (note(segment("north", 0, 5)), *notes):
        segments.take(message.key, message.value)
    found = segments.frames()
    assert frames.total(found).outcomes == {"masked": 5}
    return found.flaws


def test_tampered_unsigned_and_forked_segments_are_named_and_not_counted():
    good = segment("north", 5, 9)
    changed = sealed(good).replace(b'"masked":4', b'"masked":5')
    unsigned = sealed(good).rpartition(b"\n\n")[0] + b"\n"
    stranger = sealed(good, Signer(SIGNER.name, Ed25519PrivateKey.generate()))
    assert flawed(note(good, changed)) == (f"message 2 of the span, log north: note: not signed by {SIGNER.name}",)
    assert "without a signature" in flawed(note(good, unsigned))[0]
    assert "not signed" in flawed(note(good, stranger))[0]
    assert "not signed" in flawed((LEDGER, Message(b"north", b"garbage\n\n\xe2\x80\x94 x AAAA\n", [])))[0]
    assert "log south" in flawed((LEDGER, Message(b"south", sealed(good), [])))[0]
    assert "the log was forked" in flawed(note(segment("north", 0, 5, root="f" * 64)))[0]
    assert "not as many as its leaves" in flawed(note(segment("north", 5, 9, outcomes={Outcome.MASKED: 400})))[0]
    other = Checkpoint(f"x/{good.log}", 9, b"\x01" * 32, (good.model_dump_json(),))
    assert "something else" in flawed(note(good, SIGNER.sign(other.text()).encode()))[0]


def test_a_segment_that_does_not_go_on_is_named():
    segments = frames.Segments([SIGNER.verifier])
    for each in (segment("north", 0, 5), segment("north", 7, 9)):
        segments.take(b"north", sealed(each))
    assert segments.frames().flaws == ("log north, size 9: does not go on where the segment before it ended (size 5)",)


def test_what_is_missing_between_the_first_and_the_last_event_is_counted():
    sequences = (50, 48, 52, 52, 55, 49)
    found = frames.count(event(number, "north") for number in sequences)
    assert not isinstance(found, Absent)
    counts = found.cameras["north"]
    assert (counts.outcomes, counts.missing, counts.duplicates, counts.frames) == ({"masked": 5}, 3, 1, 8)


def test_results_of_drills(tmp_path):
    path = tmp_path / "drills.json"
    drill = {"name": "kill", "lost": 0, "unaccounted": 0, "duplicates": 3, "leaked": 0, "recovery_s": 6.5, "runs": 20}
    path.write_text(
        "broker up\n" + json.dumps({"drills": [drill, {**drill, "leaked": 1}], "at": NOW.isoformat()}) + "\n"
    )
    found = read_drills(path)
    assert not isinstance(found, Absent)
    assert [(each.duplicates, each.passed) for each in found.drills] == [(3, True), (3, False)]
    path.write_text("nothing")
    with pytest.raises(DrillsError, match=r"drills\.json.*make drills"):
        read_drills(path)
