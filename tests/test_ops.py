"""Every script under ops/ can be loaded: what it takes from sfumato is there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[1] / "ops").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_loads(name):
    importlib.import_module(name)


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
