"""The bill of materials is valid CycloneDX, and holds all that runs and each weight."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sbom
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from sfumato.models.weights import WEIGHTS


@pytest.fixture(scope="module")
def text() -> str:
    return make_outputter(sbom.bill(), OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()


@pytest.fixture(scope="module")
def document(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def test_it_is_valid(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken = text.replace('"type": "library"', '"type": "libary"', 1)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_each_package_under_a_copyleft_licence_is_named_for_who_ships_it(document: dict[str, Any]) -> None:
    stated = {
        each["name"]: json.dumps(each["licenses"])
        for each in document["components"]
        if re.search(r"GPL|MPL|EPL|EUPL|CDDL|Mozilla|General Public", json.dumps(each.get("licenses", [])))
    }
    assert {"psycopg", "certifi"} <= {*stated}
    page = (Path(__file__).parents[1] / "docs" / "licences.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, licence in stated.items():
        (row,) = [row for row in rows if f"`{name}`" in row.split(" | ")[0]]
        assert re.findall(r"\*\*([\w.-]+)\*\*", row)[0] in licence


def test_it_holds_each_package_that_runs_and_none_that_only_tests(document: dict[str, Any]) -> None:
    named = {each["name"]: each for each in document["components"]}
    wanted = {name for name in sbom.pinned() if sbom.is_installed(name)}
    assert wanted <= named.keys()
    assert len(wanted) > 60
    assert named["numpy"]["version"] == version("numpy")
    assert named["numpy"]["purl"] == f"pkg:pypi/numpy@{version('numpy')}"
    assert all(named[name]["licenses"] and named[name]["properties"] for name in wanted)
    assert "pytest" not in named


def test_it_holds_each_weight_with_its_licence_and_digest(document: dict[str, Any]) -> None:
    named = {each["name"]: each for each in document["components"]}
    for name, weight in WEIGHTS.items():
        component = named[f"weight-{name}"]
        assert component["version"] == weight.version
        assert component["hashes"] == [{"alg": "SHA-256", "content": weight.sha256}]
        assert weight.licence in json.dumps(component["licenses"])


def test_it_says_what_depends_on_what(document: dict[str, Any]) -> None:
    needs = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert (
        f"pkg:pypi/faust-streaming@{version('faust-streaming')}" in needs[document["metadata"]["component"]["bom-ref"]]
    )


def test_the_command_writes_it(tmp_path: Path) -> None:
    command = [sys.executable, sbom.__file__, str(tmp_path / "sbom.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert json.loads((tmp_path / "sbom.json").read_text())["bomFormat"] == "CycloneDX"
