"""What others wrote is parsed or refused by name: regressions of ``tests/corpus`` and a short run of ``make fuzz``."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fuzz
import fuzz_targets
import pytest
from fuzz import CANARY, Target

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, object]]:
    """Of a run with few cases, which begins with the corpus."""
    command = [sys.executable, str(ROOT / "ops" / "fuzz.py"), "--cases", "800", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == bool(found["findings"])
    return found


def test_nothing_but_the_named_errors_comes_out(figures: dict[str, dict[str, object]]) -> None:
    assert figures["findings"] == []
    assert figures["cases"] >= 800  # type: ignore[operator]
    assert figures["targets"].keys() == fuzz_targets.TARGETS.keys()
    assert figures["guided"] is ("atheris" in sys.modules)


def test_every_folder_of_regressions_has_its_target_and_is_small() -> None:
    for path in fuzz.CORPUS.rglob("*"):
        if path.is_dir():
            assert path.name in fuzz_targets.TARGETS
        else:
            assert path.stat().st_size <= fuzz.LONGEST


@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_what_cases_are_made_from_is_valid(name: str) -> None:
    """Or nothing behind the first check would ever be reached."""
    target = fuzz_targets.TARGETS[name]
    target.parse(target.seeds()[0])
    assert all(len(seed) <= fuzz.LONGEST for seed in target.seeds())


class Refusal(ValueError):
    pass


def _raise(error: BaseException) -> None:
    raise error


def _quote(data: bytes) -> None:
    raise Refusal(f"cannot read {data[:40]!r}")


def _fill(data: bytes) -> None:
    bytearray(b"x") * (1500 << 20)  # well above what the tests before have held: the peak is theirs, too


def _compute(data: bytes) -> None:
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("parse", "told"),
    [
        (lambda data: _raise(KeyError("x")), "KeyError"),
        (lambda data: ctypes.string_at(0), "crash"),
        (lambda data: os.abort(), "crash (SIGABRT)"),
        (lambda data: _raise(Refusal("MemoryError")), "memory"),
        (lambda data: _raise(Refusal("x" * 10_000)), "characters"),
        (_quote, "quotes"),
        (_fill, "MB; at most 64"),
        (lambda data: bytearray(8 << 30), "MemoryError"),
        (_compute, "takes 0"),
    ],
)
def test_faults_are_found(parse: Callable[[bytes], object], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind, with the input that made it."""
    if parse is _compute:
        monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.2)
    for binary, data in ((False, b'{"a": "%s"}' % CANARY.encode()), (True, b"\x01" + CANARY.encode() * 2)):
        (finding,) = fuzz.replay("faulty", Target(parse, (Refusal,), binary=binary), data).findings
        assert told in finding["what"]
        assert finding["input"] == data.hex()


def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "PATIENCE", 0.3)
    (finding,) = fuzz.replay("faulty", Target(lambda data: time.sleep(60)), b"a").findings
    assert finding == {"target": "faulty", "what": "hangs", "input": b"a".hex()}


def test_the_name_of_a_field_may_be_quoted_and_a_value_may_not() -> None:
    text = f"{CANARY}: unknown key"
    assert fuzz.told(text, f'{{"{CANARY}": 1}}'.encode(), binary=False) == ""
    assert "quotes" in fuzz.told(text, f'{{"a": "{CANARY}"}}'.encode(), binary=False)


def test_cases_are_made_without_guidance_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where atheris has no wheel."""
    monkeypatch.delitem(sys.modules, "atheris", raising=False)
    result = fuzz.fuzz(
        "faulty", Target(lambda data: _raise(KeyError()) if b"aa" in data else None, (), lambda: [b"a"]), 500, 1
    )
    assert result.findings
