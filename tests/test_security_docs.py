"""docs/security.md: what stands for a defence exists, and what is set is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sfumato.agents.settings import Settings

ROOT = Path(__file__).parent.parent
PAGE = re.sub(r"<!--.*?-->", "", (ROOT / "docs" / "security.md").read_text(), flags=re.DOTALL)
THREATS = PAGE.split("## Who, what, how\n")[1].split("\n## ")[0]
ROWS = [line for line in THREATS.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.split()[1:6]))
def test_each_threat_names_tests_that_exist(row: str) -> None:
    who, what, how, tested, _left = (cell.strip() for cell in row.strip().strip("|").split(" | "))
    assert who
    assert what
    assert how
    files = re.findall(r"`(test_\w+\.py)`", tested)
    assert files
    assert re.sub(r"`test_\w+\.py`", "", tested).strip(" ,") == ""
    assert [file for file in files if not (ROOT / "tests" / file).is_file()] == []


def test_settings_targets_and_files_exist() -> None:
    known = {f"SFUMATO_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"`(SFUMATO_\w+)`", PAGE)) <= known
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)", PAGE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`((?:ops|tests|requirements)/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path


def test_there_is_a_way_to_report() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert "Report a vulnerability" in text
    assert "docs/security.md" in text
