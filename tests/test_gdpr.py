"""docs/gdpr: every test and setting that stands for an Article exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sfumato.agents.cli import main
from sfumato.agents.settings import Settings
from sfumato.schemas.policy import Policy

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "gdpr" / "README.md").read_text()
TEST = re.compile(r"`(test_[a-z0-9_]+\.py)::(test_[a-z0-9_]+)`")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| Article |"))]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "| feature |" not in row], ids=lambda row: row.split("|")[1].strip()
)
def test_each_row_names_tests_that_exist(row):
    cells = row.strip("|").split("|")
    assert len(cells) == 4
    found = TEST.findall(cells[3])
    assert found
    assert TEST.sub("", cells[3]).strip(" ,") == ""
    for file, name in found:
        assert re.search(rf"^\s*(async )?def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), (
            f"{file}::{name}"
        )


def test_settings_policy_keys_and_commands_exist():
    settings = {f"SFUMATO_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"`(SFUMATO_[A-Z0-9_]+)`", PAGE)) <= settings
    assert set(re.findall(r"`sfumato ([a-z-]+)", PAGE)) <= set(main.commands)
    for row in ROWS:
        if "[policies]" in row:
            assert set(re.findall(r"`([a-z_]+)`", row.split("|")[3])) - {"SFUMATO_POLICY_FLOOR"} <= set(
                Policy.model_fields
            )


def test_each_article_is_there():
    found = " ".join(row.split("|")[1] for row in ROWS) + " ".join(re.findall("^## (.*)$", PAGE, re.MULTILINE))
    wanted = "5(1)(a) 5(1)(b) 5(1)(c) 5(1)(d) 5(1)(e) 5(1)(f) 5(2) 6(1) 9(1) 13 15 17 25 28 30(1) 32(1) 33 34 35(7)"
    assert [article for article in wanted.split() if article not in found] == []


def test_what_a_person_must_judge_stands_in_each_section():
    sections = PAGE.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections if "**A person judges:**" not in section] == []
