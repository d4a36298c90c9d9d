"""The policies topic on real brokers: in force at once, history kept, seen by workers and by the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from stack import demonstration_policy

from sfumato.agents import policies
from sfumato.agents.cli import main
from sfumato.agents.policies import PolicyStore
from sfumato.agents.reconcile import TopicReader
from sfumato.models.task import NoPolicy
from sfumato.models.timetable import Timetable
from sfumato.schemas.floor import Floor
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Overload, Policy, digest
from sfumato.schemas.topics import FRAMES_ANONYMIZED, FRAMES_RAW, POLICIES
from tests.ingesting import read_topic
from tests.test_end_to_end import ended, raw, send, settle
from tests.test_policy import GOOD, named

IN_EFFECT = 2.0
"""Seconds within which a policy is promised to be in effect."""


@pytest.fixture
def store(topics):
    store = PolicyStore(topics, Floor(targets=frozenset({"face"})))
    store.start()
    yield store
    store.close()


def version(register, name):
    entry = register.in_force.get(name)
    return entry.policy.version if isinstance(entry, Timetable) else entry


def test_a_change_is_in_effect_within_two_seconds(topics, store):
    """From the broker's acknowledgement to the worker's answer, each change seen by the store itself."""
    now = datetime.now(UTC)
    assert store.get("north", now) == NoPolicy(Reason.NO_POLICY)
    for number in range(1, 6):
        policies.publish(topics, [named("north-*", number), named("north", number)])
        assert store.wait_for(lambda register, wanted=number: version(register, "north") == wanted, IN_EFFECT)
        assert store.get("north", now).version == store.get("north-1", now).version == number
    policies.withdraw(topics, "north")
    assert store.wait_for(lambda register: "north" not in register.in_force, IN_EFFECT)
    assert store.get("north", now) == NoPolicy(Reason.NO_POLICY)
    policies.publish(topics, [named("north", 6, targets={"person": {}})])  # below the floor
    assert store.wait_for(lambda register: "north" in register.in_force, IN_EFFECT)
    assert store.get("north", now).reason is Reason.INVALID_POLICY


def test_every_version_stays_readable_after_others_and_after_a_withdrawal(topics):
    set_ = [named("north", number, purpose=f"purpose {number}") for number in (1, 2, 7)]
    for policy in set_:
        policies.publish(topics, [policy])
    policies.withdraw(topics, "north")
    register = policies.load(topics)
    assert register.in_force == {}
    assert [version.policy for version in register.history["north"].values()] == set_
    assert all(
        abs(version.set_at - datetime.now(UTC)) < timedelta(hours=1) for version in register.history["north"].values()
    )


def test_each_version_has_a_key_of_its_own_that_comes_before_it_is_in_force(topics):
    """So compaction, which keeps the newest message of each key, keeps them all; and none is in force unrecorded."""
    for number in (1, 2):
        policies.publish(topics, [named("north-*", number)])
    policies.withdraw(topics, "north-*")
    consumer = Consumer(
        {"bootstrap.servers": topics.bootstrap_servers, "group.id": "keys", "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(topics.topic(POLICIES), 0, OFFSET_BEGINNING)])
    found = []
    while (message := consumer.poll(30)) is not None and message.error() is None:
        found.append((message.key(), bool(message.value())))
    consumer.close()
    assert found == [
        (b"north-*@1", True),
        (b"north-*", True),
        (b"north-*@2", True),
        (b"north-*", True),
        (b"north-*", False),
    ]


def test_the_worker_goes_by_the_most_specific_policy_and_says_which(stack, pictures):
    """Pattern, own policy, schedule, expiry and a policy below the floor, one after the other, without a restart."""
    (floor := stack.folder / "floor.toml").write_text('targets = ["face"]')
    start, end = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
    event = {"begins": start.isoformat(), "ends": end.isoformat()}
    base = json.loads(demonstration_policy("*").model_dump_json())
    steps = [
        ("*", {"version": 1}),
        ("north-*", {"version": 4}),
        ("north-1", {"version": 2, "schedules": [{"name": "fair", "event": event, "zones": []}]}),
        ("north-1", {"version": 3, "schedules": [{"name": "night", "event": event, "full_mask": True}]}),
        ("north-1", {"version": 4, "valid_until": start.isoformat()}),
        ("north-1", {"version": 5, "targets": {"person": {}}}),
    ]
    expected = [
        ("masked", None, "*", 1, None),
        ("masked", None, "north-*", 4, None),
        ("masked", None, None, 2, "fair"),
        ("fully_masked", "scheduled", None, 3, "night"),
        ("fully_masked", "policy_expired", None, 4, None),
        ("fully_masked", "invalid_policy", None, None, None),
    ]
    stack.start("anonymize", policy_floor=floor)
    found = {}
    with TopicReader(stack.settings) as reader:
        reader.on_audit = lambda audit: found.setdefault(audit.sequence, audit)
        sequence = -1
        for (name, fields), wanted in zip(steps, expected, strict=True):
            stack.publish(Policy.model_validate({**base, "camera": name, **fields}))
            published = datetime.now(UTC)
            for _ in range(100):  # a worker reads policies and frames from topics that do not wait for each other
                sequence += 1
                send(stack, [(FRAMES_RAW, raw("north-1", sequence, pictures[0]))])
                while sequence not in found:
                    reader.read(0.2)
                    stack.check()
                if outcome(found[sequence]) == wanted:
                    break
                assert found[sequence].captured_at < published + timedelta(seconds=IN_EFFECT)
            assert outcome(found[sequence]) == wanted
            text = Policy.model_validate({**base, "camera": name, **fields}).to_message().value
            assert found[sequence].policy_sha256 == (digest(text) if wanted[3] else None)
        send(stack, [ended("north-1", sequence)])
        settle(stack, reader)
    assert found[sequence].detail == "targets.face: missing; the site's floor wants it masked"
    for message in read_topic(stack.settings, FRAMES_ANONYMIZED):
        frame = AnonymizedFrame.from_message(message.key(), message.value(), message.headers())
        audit = found[frame.id.sequence]
        assert (frame.policy, frame.policy_version) == (audit.policy, audit.policy_version)


def outcome(audit):
    return (audit.outcome, audit.reason, audit.policy, audit.policy_version, audit.schedule)


def test_what_a_worker_comes_to_late_is_skipped_and_counted(stack, pictures):
    """Frames of an hour ago are dropped, those of now are masked."""
    overload = {"rule": "skip", "max_age": 120}
    stack.publish(demonstration_policy("north").model_copy(update={"overload": Overload.model_validate(overload)}))
    earlier = datetime.now(UTC) - timedelta(hours=1)
    send(stack, [(FRAMES_RAW, raw("north", number, pictures[number], captured_at=earlier)) for number in range(12)])
    stack.start("anonymize")
    stack.wait_for_worker()
    send(stack, [(FRAMES_RAW, raw("north", number, pictures[number])) for number in range(12, 16)])
    send(stack, [ended("north", 15)])
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)
        report = reader.account.report()
    assert (report["frames_in"], report["masked"], report["dropped"]) == (16, 4, {"late": 12})
    assert report["unaccounted"] == report["unpublished"] == 0
    stack.wait_for("anonymize", 30, lambda: stack.metric("sfumato_frames_refused_total") == 12)


def test_a_floor_that_cannot_be_read_ends_the_worker_for_good(stack):
    stack.start("anonymize", policy_floor=stack.folder / "none.toml")
    stack.wait_until_ended("anonymize", 60)
    assert "SFUMATO_POLICY_FLOOR" in stack.log("anonymize").read_text()
    assert stack.stop("anonymize") == 78


def test_the_command_line_from_file_to_history(topics, tmp_path):
    servers = {"SFUMATO_BOOTSTRAP_SERVERS": topics.bootstrap_servers, "SFUMATO_TOPIC_PREFIX": topics.topic_prefix}

    def run(*arguments, status=0, floor=None):
        environment = servers if floor is None else {**servers, "SFUMATO_POLICY_FLOOR": str(floor)}
        done = CliRunner().invoke(main, ["policy", *map(str, arguments)], env=environment)
        assert done.exit_code == status, done.output
        return done

    path = tmp_path / "policies.toml"
    text = GOOD + ALWAYS
    path.write_text(text + '\n[[policy]]\ncamera = "*"\nvalid_until = 2020-01-01T00:00:00Z\n')
    validated = run("validate", path)
    assert validated.stdout.splitlines() == [
        "north version 1 is valid",
        "south version 4 is valid",
        "* version 1 is valid",
    ]
    assert "warning: policy of '*': valid_until: in the past" in validated.stderr
    assert "fully masked" in run("get", "north", status=1).stderr
    assert run("set", path).stdout.splitlines() == ["set north version 1", "set south version 4", "set * version 1"]
    run("set", path)  # again, as it is

    own = json.loads(run("get", "north").stdout)
    assert (own["camera"], own["version"], own["purpose"]) == ("north", 1, "Traffic counts")
    other = run("get", "west")
    assert json.loads(other.stdout)["camera"] == "*"
    assert "that of * applies" in other.stderr
    assert [line.split("\t") for line in run("list").stdout.splitlines()] == [
        ["*", "version 1", "fully masked: policy_expired"],
        ["north", "version 1", "face"],
        ["south", "version 4", "face", "schedule always"],
    ]

    path.write_text(text.replace("Traffic counts", "Crowds").replace("version = 4", "version = 5"))
    refused = run("set", path, status=1)
    assert "policy of 'north': version: 1 was set with other content; raise it to 2" in refused.stderr
    assert [line.split("\t")[1] for line in run("list").stdout.splitlines()] == ["version 1", "version 1", "version 4"]
    path.write_text(
        GOOD.replace("Traffic counts", "Crowds").replace("version = 1", "version = 2").replace("= 4", "= 5")
    )
    run("set", path)
    lines = [line.split("\t") for line in run("history", "north").stdout.splitlines()]
    assert [(line[0], line[2:]) for line in lines] == [("version 1", []), ("version 2", ["in force"])]
    assert json.loads(run("get", "north", "--version", "1").stdout)["purpose"] == "Traffic counts"
    assert "raise it to 3" in run("set", write(tmp_path, own), status=1).stderr
    assert "no version 9" in run("get", "north", "--version", "9", status=1).stderr

    (floor := tmp_path / "floor.toml").write_text('masks = ["solid"]')
    below = run("validate", path, status=1, floor=floor)
    assert f"{path}: policy of 'north': targets.face.mask: mosaic is not allowed by the site's floor" in below.stderr
    run("set", path, status=1, floor=floor)
    assert "SFUMATO_POLICY_FLOOR" in run("set", path, status=1, floor=tmp_path / "none").stderr
    assert "north\tfully masked: invalid_policy: targets.face.mask" in run("list", floor=floor).stdout

    run("withdraw", "north")
    assert json.loads(run("get", "north").stdout)["camera"] == "*"
    assert "has no policy of its own" in run("withdraw", "north", status=1).stderr
    assert len(run("history", "north").stdout.splitlines()) == 2
    assert "nothing was ever set" in run("history", "west", status=1).stderr


ALWAYS = """
[[policy.schedules]]
name = "always"
daily = { begins = "00:00", ends = "00:00", time_zone = "UTC" }
zones = []
"""


def write(folder, policy):
    (folder / "policy.json").write_text(json.dumps(policy))
    return folder / "policy.json"


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_compaction_takes_no_version_away(topics):
    """Apache Kafka made to compact at once: what was in force before is gone from the log, its version is not."""
    admin = AdminClient({"bootstrap.servers": topics.bootstrap_servers})
    resource = ConfigResource(ResourceType.TOPIC, topics.topic(POLICIES))
    for name, value in {"segment.ms": "10", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "1"}.items():
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource.add_incremental_config(entry)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    number = 1
    policies.publish(topics, [named("north", number)])
    while "north" in [key for key, version in keys(topics) if version == 1]:
        number += 1  # each publication also ends the segment that the cleaner may then look at
        policies.publish(topics, [named("north", number)])
        assert number < 500
    assert sorted(policies.load(topics).history["north"]) == list(range(1, number + 1))


def keys(settings):
    """Key and version of every message that the log still has."""
    return [(m.key().decode(), json.loads(m.value())["version"]) for m in read_topic(settings, POLICIES)]
