"""Every script under ops/ can be loaded: what it takes from sfumato is there."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import demo
import pytest

from sfumato.agents.settings import Settings

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[1] / "ops").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_loads(name):
    importlib.import_module(name)


def test_other_commands_find_the_demonstration(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SFUMATO_")]:
        monkeypatch.delenv(name)
    made = {
        "bootstrap_servers": "127.0.0.1:29092",
        "topic_prefix": "x.",
        "group_id": "x",
        "state_dir": tmp_path / "a b",
    }
    look = "from sfumato.agents.settings import Settings; print(Settings().model_dump_json())"
    line = f"{demo.beside(Settings(**made))} && {shlex.quote(sys.executable)} -c '{look}'"
    told = json.loads(subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout)
    assert {name: told[name] for name in made} == {**made, "state_dir": str(tmp_path / "a b")}
    assert told == json.loads(Settings(**made).model_dump_json())


def test_the_demonstration_needs_no_more_than_its_pinned_requirements():
    """`make demo` installs requirements/run.txt alone: what only the tests' list has is not there."""
    root = Path(__file__).parents[1]
    run, test = (
        {line.partition("==")[0] for line in (root / "requirements" / name).read_text().splitlines() if "==" in line}
        for name in ("run.txt", "test.txt")
    )
    absent = sorted(re.sub(r"[-.]", "_", name) for name in test - run)
    assert "psutil" in absent
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import demo"
    done = subprocess.run([sys.executable, "-c", code], cwd=root / "ops", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
