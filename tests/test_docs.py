"""What the documents promise is run: their examples, on real brokers, and their lists against the code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from prometheus_client import Counter, Gauge, Histogram
from stack import demonstration_policy

from sfumato.agents import acls, metrics, shares
from sfumato.agents.cli import main
from sfumato.agents.policy_files import read_file, read_floor
from sfumato.agents.reconcile import TopicReader
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.schemas.credential import Statement
from sfumato.schemas.floor import Floor
from sfumato.schemas.masking import Masking
from sfumato.schemas.metadata import Block, Grain, Metadata, MetadataField, Period, Treatment
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.schedule import Schedule
from sfumato.schemas.scope import ROLES, Role, Scope
from sfumato.schemas.topics import FRAMES_RAW, TOPICS
from sfumato.schemas.zone import Zone
from tests.filming import Encoder, shade
from tests.test_bridge import Bridge, frame
from tests.test_end_to_end import ended, raw, send, settle

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def test_outside_consumers_get_masked_pictures_and_their_audit(stack, pictures, tmp_path):
    """The 20 lines of confluent-kafka, and on Apache Kafka kcat: nothing of sfumato in them."""
    stack.publish(demonstration_policy("north"))
    send(
        stack, [(FRAMES_RAW, raw("north", i, picture)) for i, picture in enumerate(pictures[:5])] + [ended("north", 4)]
    )
    stack.start("anonymize")
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)
    broker, prefix = stack.settings.bootstrap_servers, stack.settings.topic_prefix
    environment = {**os.environ, "BROKER": broker, "PREFIX": prefix, "FOLDER": str(tmp_path), "COUNT": "5"}
    program, _ = blocks("contracts.md", "python")
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=90)
    for path in sorted(tmp_path.glob("north-*.jpg")):
        audit = json.loads(path.with_suffix(".json").read_text())
        assert audit["outcome"] == "masked"
        assert audit["output_bytes"] == path.stat().st_size
        shown = images.decode(path.read_bytes(), "image/jpeg", max_pixels=10**6)
        original = images.decode(pictures[audit["sequence"]], "image/jpeg", max_pixels=10**6)
        assert abs(shown[48:76, 68:108].astype(int) - original[48:76, 68:108]).mean() > 8
    assert len(list(tmp_path.glob("north-*.jpg"))) == 5
    if prefix and "kafka" in os.environ.get("PYTEST_CURRENT_TEST", ""):
        newest, audits = blocks("contracts.md", "sh")[0].replace("-t ", f"-t {prefix}").splitlines()
        shell = {"shell": True, "cwd": tmp_path, "env": environment, "check": True, "timeout": 60}
        subprocess.run(newest.replace("-o -1 -c 1", "-o beginning -c 1"), **shell)
        assert images.inspect((tmp_path / "newest.jpg").read_bytes(), "image/jpeg", max_pixels=10**6) == (176, 144)
        listed = subprocess.run(audits, stdout=subprocess.PIPE, text=True, **shell).stdout.splitlines()
        assert [json.loads(line.split(" ", 1)[1])["outcome"] for line in listed] == ["masked"] * 5
        assert shutil.which("kcat")


def test_outside_consumers_decode_h264_from_any_keyframe(topics, tmp_path):
    """The lines of confluent-kafka and PyAV, after a restart that repeats pictures and with a unit missing."""
    first, second = Encoder("north", interval=5).film(*range(14)), Encoder("north", interval=4).film(*range(8, 17))
    with Bridge(topics) as bridge:
        bridge.publish(*first[3:12], second[0], first[12], *second[1:6], second[7], second[8], frame("south", 0))
    # 3 and 4 lie before a keyframe, 15 is missing, 16 is a keyframe again.
    expected = {*range(5, 14), 16}
    environment = {"BROKER": topics.bootstrap_servers, "PREFIX": topics.topic_prefix, "CAMERA": "north"}
    environment |= {"FOLDER": str(tmp_path), "COUNT": str(len(expected))}
    _, program = blocks("contracts.md", "python")
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, check=True, timeout=90)
    assert {path.name for path in tmp_path.glob("*.png")} == {f"north-1-{n}.png" for n in expected}
    for n in expected:
        with Image.open(tmp_path / f"north-1-{n}.png") as saved:
            assert np.asarray(saved).mean() == pytest.approx(shade(n), abs=5)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_the_websocket_example_saves_a_picture(topics, tmp_path):
    with Bridge(topics) as bridge:
        bridge.publish(frame("north", 0))
        environment = {**os.environ, "BRIDGE": bridge.address, "KEY": bridge.key, "CAMERA": "north"}
        environment["FILE"] = str(tmp_path / "live.jpg")
        (program,) = blocks("bridge.md", "python")
        printed = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, timeout=60, capture_output=True, text=True
        ).stdout
    assert printed.split() == ["north/1/0", "masked"]
    assert images.inspect((tmp_path / "live.jpg").read_bytes(), "image/jpeg", max_pixels=10**6) == (64, 36)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_the_lines_that_make_and_use_a_key(topics, tmp_path):
    with Bridge(topics) as bridge:
        (lines,) = blocks("access.md", "sh")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "SFUMATO_STATE_DIR": str(topics.state_dir)}
        environment["BRIDGE"] = f"http://{bridge.address}"
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines], cwd=tmp_path, env=environment, capture_output=True, timeout=120
        )
    assert ran.returncode == 0, ran.stderr.decode()
    answered, listed = ran.stdout.decode().split("}", 1)
    assert json.loads(answered + "}") == {"items": [], "next": None}
    assert [json.loads(line)["name"] for line in listed.splitlines()].count("Acme Traffic") == 1


def test_the_table_of_roles_is_the_codes():
    rows = re.findall(r"^\| (`[a-z:`, ]+`) \|.*?\|((?: x? ?\|){5})$", (DOCS / "access.md").read_text(), re.MULTILINE)
    table = {
        scope: [cell.strip() == "x" for cell in cells.split("|")[:-1]]
        for scopes, cells in rows
        for scope in re.findall(r"[a-z]+:[a-z]+", scopes)
    }
    assert table == {scope: [scope in ROLES[role] for role in Role] for scope in Scope}


def test_the_table_of_kafkas_roles_is_the_codes():
    rows = re.findall(
        r"^\| `([a-z-]+)` \|([^|]*)\|([^|]*)\|([^|]*)\|$", (DOCS / "brokers.md").read_text(), re.MULTILINE
    )
    table = {role: [set(re.findall(r"`([^`]+)`", cell)) for cell in cells] for role, *cells in rows}
    wanted = {}
    for name, role in acls.ROLES.items():
        writes = {topic.name for topic in role.writes} | ({f"{shares.SHARED}*"} if role.shares else set())
        group = set() if role.group is None else {role.group or "SFUMATO_GROUP_ID"}
        wanted[name] = [{topic.name for topic in role.reads}, writes, group]
    assert table == wanted


def test_who_writes_and_reads_each_topic_is_the_codes():
    """Commands stand for the roles that are not named by them; ``people`` are no roles."""
    commands = {
        "`sfumato policy`": "policy-editor",
        "`sfumato suspension lift`": "suspension-lifter",
        "`sfumato keys shred --despite-requests`": "key-shredder",
    }
    people = {"auditors", "everyone", "consumers of yours"}
    topics = (DOCS / "contracts.md").read_text().split("\n## Identity")[0]
    rows = re.findall(r"^\| `([a-z.]+)` \|(?:[^|]*\|){4} ([^|]*) \| ([^|]*) \|$", topics, re.MULTILINE)
    table = {
        topic: [{commands.get(name, name) for name in cell.split(", ")} - people for cell in cells]
        for topic, *cells in rows
    }
    assert table == {
        topic.name: [
            {name for name, role in acls.ROLES.items() if topic in role.writes},
            {name for name, role in acls.ROLES.items() if topic in role.reads},
        ]
        for topic in TOPICS
    }


def test_the_example_of_shares_is_valid(tmp_path):
    (text,) = blocks("brokers.md", "toml")
    (tmp_path / "shares.toml").write_text(text)
    (vendor,) = shares.read_file(tmp_path / "shares.toml")
    assert (vendor.topic.name, vendor.owner, vendor.gets("north-1"), vendor.gets("south")) == (
        "shared.acme",
        "User:acme",
        True,
        False,
    )


def test_the_example_policies_are_valid(tmp_path):
    smallest, patterns, schedules, floor = blocks("policies.md", "toml")
    named = []
    for text in (smallest, patterns, schedules, *blocks("metadata.md", "toml")):
        (tmp_path / "policies.toml").write_text(text)
        named.append([policy.camera for policy in read_file(tmp_path / "policies.toml")])
    assert named == [["north"], ["*", "north-*", "north-1"], ["market"], ["archive"]]
    (tmp_path / "floor.toml").write_text(floor)
    stated = read_floor(Settings(policy_floor=tmp_path / "floor.toml"))
    assert all(getattr(stated, name) != field.default for name, field in Floor.model_fields.items())


def test_every_key_of_a_policy_is_documented():
    text = (DOCS / "policies.md").read_text()
    keys = [name for part in (Policy, Masking, Zone, Schedule) for name in part.model_fields]
    assert [key for key in keys if not re.search(rf"^\| .*`{key}`.* \|", text, re.MULTILINE)] == []


def test_every_field_and_block_of_metadata_is_documented():
    text = (DOCS / "metadata.md").read_text()
    names = [*MetadataField, *Treatment, *Block, *Grain, *Period, *Metadata.model_fields]
    assert [name for name in names if f"`{name}`" not in text] == []
    assert [name for name in Statement.model_fields if f"`{name}`" not in (DOCS / "credentials.md").read_text()] == []


def test_every_setting_topic_and_reason_is_documented():
    settings = (DOCS / "settings.md").read_text()
    assert [name for name in Settings.model_fields if f"`{name.upper()}`" not in settings] == []
    contracts = (DOCS / "contracts.md").read_text()
    assert [topic.name for topic in TOPICS if f"| `{topic.name}` |" not in contracts] == []
    assert [reason for reason in Reason if f"`{reason}`" not in contracts] == []


def test_every_command_is_in_the_readme():
    readme = (DOCS.parent / "README.md").read_text()
    assert [name for name in main.commands if f"sfumato {name}" not in readme] == []


def test_every_metric_is_documented_and_no_other():
    ours = [value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram)]
    wanted = {
        metric._name + ("_total" if isinstance(metric, Counter) else ""): ",".join(metric._labelnames)
        for metric in ours
    }
    text = (DOCS / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(sfumato_\w+)(?:\{([a-z,]+)\})?` \| ([a-z, ]+) \|", text, re.MULTILINE)
    assert len(rows) == len(wanted)
    assert {name: labels for name, labels, _ in rows} == wanted
    assert {process for _, _, processes in rows for process in processes.split(", ")} <= {*main.commands}


def test_every_alert_is_documented_and_no_other():
    rules = yaml.safe_load((DOCS.parent / "ops" / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    rows = re.findall(r"^\| `(Sfumato\w+)` \|", (DOCS / "monitoring.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(rule["alert"] for rule in rules)
    named = {name for page in DOCS.rglob("*.md") for name in re.findall(r"`(Sfumato[A-Z]\w+)`", page.read_text())}
    assert named <= {*rows}


def test_links_between_documents_lead_somewhere():
    root = DOCS.parent
    for document in [*root.glob("*.md"), *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.relative_to(root)}: {target}"
