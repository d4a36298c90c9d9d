"""The command line: what a user gets wrong is one line that says what to do, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfumato.agents.broker import free_port
from sfumato.schemas.topics import EPOCHS, FRAMES_RAW
from tests.test_end_to_end import ended, raw, send


def sfumato(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **{f"SFUMATO_{name}": value for name, value in environment.items()}}
    command = [sys.executable, "-m", "sfumato.agents.cli", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=90)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["topics"], {"BATCH_SIZE": "many"}, "batch_size"),
        (["topics"], {"BOOTSTRAP_SERVER": "x:1"}, "unknown setting SFUMATO_BOOTSTRAP_SERVER; docs/settings.md"),
        (["topics"], {"BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}, "no broker answers"),
        (["anonymize"], {"BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}, "no broker answers"),
        (["reconcile"], {"BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}, "SFUMATO_BOOTSTRAP_SERVERS"),
        (["policy", "set", "missing.toml"], {}, "does not exist"),
        (["policy", "list"], {"BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}, "no broker answers"),
        (["anonymize"], {"KEYS_STORE": "vault"}, "SFUMATO_KEYS_STORE: 'vault' is none of files, database, environment"),
        (
            ["ingest", "--camera", "a=rtsp://127.0.0.1:1/"],
            {"KEYS_STORE": "environment"},
            "SFUMATO_KEYS_SECRET: wants 32 random",
        ),
        (["ingest"], {}, "--cameras FILE or --camera NAME=URL"),
    ],
)
def test_mistakes_are_named(arguments, environment, said):
    result = sfumato(*arguments, **environment)
    assert result.returncode != 0
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_policies_want_their_topic(settings):
    result = sfumato("policy", "list", BOOTSTRAP_SERVERS=settings.bootstrap_servers, TOPIC_PREFIX=settings.topic_prefix)
    assert result.returncode == 1
    assert "policies: missing; run `sfumato topics`" in result.stderr


def test_a_bad_policy_file_publishes_nothing(tmp_path):
    path = tmp_path / "policies.toml"
    path.write_text('[[policy]]\ncamera = "north"\n')
    result = sfumato("policy", "set", str(path), BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    assert result.returncode == 1
    assert "policy of 'north'" in result.stderr
    assert "version: missing; start with 1" in result.stderr


def test_anonymize_stops_where_its_detector_cannot_be_made(stack, tmp_path):
    """A weight that is absent is not retried for ever."""
    stack.start("anonymize", weights_dir=tmp_path / "empty")
    stack.wait_until_ended("anonymize", 60)
    assert "run `sfumato weights`" in stack.log("anonymize").read_text()
    assert stack.stop("anonymize") == 78


def test_reconcile_says_what_is_missing(stack):
    send(stack, [(FRAMES_RAW, raw("north", 0, b"x")), ended("north", 2)])
    environment = {
        "BOOTSTRAP_SERVERS": stack.settings.bootstrap_servers,
        "TOPIC_PREFIX": stack.settings.topic_prefix,
    }
    result = sfumato("reconcile", **environment)
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert (report["frames_in"], report["unaccounted"], report["open_epochs"]) == (3, 3, 0)
    assert EPOCHS.partitions == 1


def test_weights_are_fetched_once_and_checked(tmp_path):
    """Those alone that the settings name."""
    environment = {"WEIGHTS_DIR": str(tmp_path), "DETECTORS": "centerface", "INSPECT_DETECTORS": "centerface"}
    first = sfumato("weights", **environment)
    assert first.returncode == 0, first.stderr
    (path,) = tmp_path.iterdir()
    assert str(path) in first.stdout
    path.write_bytes(b"altered")
    assert sfumato("weights", **environment).returncode == 0
    assert Path(path).stat().st_size > 1_000_000
    unknown = sfumato("weights", DETECTORS="yolov99")
    assert (unknown.returncode, "unknown detector 'yolov99'; one of: centerface" in unknown.stderr) == (1, True)
