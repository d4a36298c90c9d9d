"""From a camera's frames to the regulator's verdict, with real workers: the lines of docs/verify.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from stack import Stack, demonstration_policy

from sfumato.agents.evidence.export import Account, Wanted
from sfumato.agents.evidence.export import export as write
from sfumato.agents.evidence.verdict import CHECKS
from sfumato.agents.evidence.verify import verify
from sfumato.agents.ledger import keys
from sfumato.agents.reconcile import TopicReader
from sfumato.schemas import export
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.topics import FRAMES_RAW
from tests.ledgering import published
from tests.test_end_to_end import EPOCH, ended, raw, send, settle

PAGE = (Path(__file__).parent.parent / "docs" / "verify.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


class Regulator:
    """Runs the page's lines in one folder."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        given = stack.settings.model_dump(mode="json", exclude_none=True)
        texts = {f"SFUMATO_{name.upper()}": v if isinstance(v, str) else json.dumps(v) for name, v in given.items()}
        self._environment = {**os.environ, **texts, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(self, *blocks: str, **variables: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
            cwd=self.folder,
            env={**self._environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


def until_sealed(stack: Stack, size: int) -> None:
    verifier = keys.load(stack.settings).signer.verifier

    def sealed() -> bool:
        return any(each.segment.size == size for each in published(stack.settings, verifier).get("north", []))

    stack.wait_for("ledger", 60, sealed)


def start(stack: Stack) -> None:
    stack.publish(demonstration_policy("north"))
    stack.start("anonymize")
    stack.start("ledger", metrics_port=0, ledger_segment_events=8, ledger_segment_seconds=1.0)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_camera_is_checked_offline_by_the_pages_lines(stack: Stack, pictures: list[bytes], tmp_path: Path) -> None:
    operator, check, check_for_programs, keep, later, prove = BLOCKS
    regulator = Regulator(stack, tmp_path / "regulator")
    start(stack)
    frames = [(FRAMES_RAW, raw("north", i, None if i == 4 else picture)) for i, picture in enumerate(pictures)]
    send(stack, frames[:20])
    until_sealed(stack, 20)
    assert regulator.run(operator, check, check_for_programs, keep).splitlines()[-1] == "verdict: passed"
    told = json.loads((regulator.folder / "verdict.json").read_text())
    assert (told["log"], told["events"], told["published"], told["copies"]) == ("north", 20, 19, 0)
    assert [name for name, check in told["checks"].items() if check["status"] != "ok"] == []

    later_on = datetime.now(UTC)
    send(stack, [*frames[20:], ended("north", len(pictures) - 1)])
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)
    until_sealed(stack, len(pictures))
    assert regulator.run(later, LATER=later_on.isoformat()).splitlines()[-1] == "verdict: passed"
    second = regulator.folder / "north-later"
    events = [json.loads(line) for line in (second / export.AUDIT).read_text().splitlines()]
    assert [event["sequence"] for event in events] == list(range(30 - len(events), 30))
    assert len(events) < 30

    shown = next(path for path in sorted((second / export.FRAMES).rglob("*.jpg")))
    frame = export.frame_of(str(shown.relative_to(second)))
    assert regulator.run(prove, FRAME=str(frame), FILE=str(shown)).splitlines()[-1] == "verdict: passed"


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_what_apache_kafka_holds_passes_and_a_changed_frame_does_not(
    stack: Stack, pictures: list[bytes], tmp_path: Path
) -> None:
    start(stack)
    send(stack, [(FRAMES_RAW, raw("north", i, picture)) for i, picture in enumerate(pictures[:12])])
    until_sealed(stack, 12)
    verifiers, folder = keys.load(stack.settings).verifiers, tmp_path / "north"
    assert write(stack.settings, Wanted("north"), verifiers, folder).complete
    assert verify(folder, verifiers).passed
    changed = folder / export.frame_path(FrameId("north", EPOCH, 7), ".jpg")
    content = bytearray(changed.read_bytes())
    content[-3] ^= 1
    changed.write_bytes(content)
    assert {(failure.check, failure.where) for failure in verify(folder, verifiers).failures} == {
        ("frames", f"north/{EPOCH}/7"),
        ("manifest", str(changed.relative_to(folder))),
    }


@pytest.mark.parametrize(("name", "line"), CHECKS.items())
def test_every_line_of_the_verdict_is_explained(name: str, line: str) -> None:
    assert f"| {line} | `{name}` |" in PAGE


def test_every_file_and_figure_is_explained() -> None:
    names = [export.MANIFEST, export.AUDIT, export.POLICIES, export.WEIGHTS, export.KEY, export.COPIES]
    folders = [f"{name}/" for name in (export.CHECKPOINTS, export.CONSISTENCY, export.FRAMES)]
    assert [name for name in (*names, *folders, *Account().report()) if f"`{name}`" not in PAGE] == []
