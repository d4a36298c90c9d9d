"""The gate: no more may stay exposed than the kept figures say."""

import json
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest

PROGRAM = Path(evaluate.__file__)


@pytest.mark.parametrize(
    ("now", "kept", "told"),
    [
        ("2/100", "2/100", []),
        ("1/100", "2/100", []),
        ("3/100", "2/100", ["default images face: 3/100 exposed, 2/100 kept"]),
        ("3/90", "2/100", ["default images face: labels changed from 100 to 90; keep new figures with --keep"]),
    ],
)
def test_a_rise_is_told(now, kept, told):
    assert evaluate.rises({"default images face": now}, {"default images face": kept}) == told


def test_what_is_no_longer_measured_is_told():
    assert evaluate.rises({}, {"people clips person": "1/9"}) == ["people clips person: not measured now, 1/9 kept"]


def test_without_labelled_pictures_it_says_so(tmp_path):
    told = subprocess.run([sys.executable, PROGRAM, "--eval", tmp_path], capture_output=True, text=True, check=True)
    assert "nothing was measured" in told.stderr


@pytest.mark.skipif(not (evaluate.EVALUATION / "labels.json").is_file(), reason="no labelled pictures here")
def test_no_more_is_exposed_than_was(tmp_path):
    told = subprocess.run([sys.executable, PROGRAM, "--gate"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout.splitlines()[-1])["worse"] == []
