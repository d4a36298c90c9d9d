"""One person out of sealed footage, with real processes and detectors: asked for by a click on a masked picture,
approved by two others, made by a worker although one was killed at it, fetched by who asked, recorded; and gone once
shredded."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from clips import clip
from sqlalchemy import select, update
from stack import Stack, demonstration_policy

from sfumato.agents.footage import stores
from sfumato.agents.reconcile import TopicReader
from sfumato.agents.subjects.rows import RequestRow
from sfumato.models.images import GREY
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.disclosure import Disclosure
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.topics import DISCLOSURES, FRAMES_RAW
from sfumato.schemas.unit import H264
from tests.calling import bearer
from tests.encoding import decode, encode
from tests.ingesting import read_topic
from tests.test_bridge import Bridge
from tests.test_end_to_end import EPOCH, ended, send, settle
from tests.test_guide import blocks

COUNT, CHOSEN, FIRST, LAST = 8, 5, 2, 6
"""Frames sent; the one that is clicked on, the first and the last of the clip, in order of presentation. A keyframe
lies before the first."""
LEFT, RIGHT = (60, 72), (460, 72)
SIDE = (176, 144)


def scenes() -> list[np.ndarray]:
    """The same man twice, apart from each other, the second one mirrored."""
    ground = np.zeros((288, 704, 3), np.uint8)
    ground[:] = (60 + np.arange(704) // 6)[None, :, None]
    with av.open(str(clip("carphone"))) as container:
        men = [picture.to_ndarray(format="bgr24") for picture in islice(container.decode(video=0), COUNT)]
    found = []
    for man in men:
        scene = ground.copy()
        for (x, y), each in ((LEFT, man), (RIGHT, man[:, ::-1])):
            scene[y : y + SIDE[1], x : x + SIDE[0]] = each
        found.append(scene)
    return found


def cut(box: tuple[float, ...]) -> tuple[slice, slice]:
    x0, y0, x1, y1 = map(round, box)
    return slice(y0, y1), slice(x0, x1)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_person_gets_their_own_pictures_and_nobody_elses(stack: Stack, tmp_path: Path) -> None:
    units = encode(scenes(), H264, {"preset": "veryfast", "g": "4", "bf": "2", "sc_threshold": "0", "crf": "10"})
    originals = decode(H264, units)
    began = datetime.now(UTC) - timedelta(seconds=5)
    frames = [
        RawFrame(
            FrameId("north", EPOCH, n),
            began + timedelta(seconds=unit.seconds),
            TimeSource.CAMERA,
            704,
            288,
            H264,
            data,
            unit,
        )
        for n, (data, unit) in enumerate(units)
    ]
    stack.publish(demonstration_policy("north"))
    send(stack, [*((FRAMES_RAW, frame.to_message()) for frame in frames), ended("north", COUNT - 1)])
    stack.start("anonymize", camera_idle=1.0)
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)
    assert stack.stop("anonymize") == 0

    with Bridge(stack.settings) as bridge:
        shown = sorted(frames, key=lambda frame: frame.captured_at)
        chosen = shown[CHOSEN]
        events = bridge.get("/v1/audit?camera=north").json()["items"]
        found = next(event for event in events if event["sequence"] == chosen.id.sequence)["detections"]
        left, right = sorted(detection["box"] for detection in found)
        variables = {
            "SFUMATO": f"http://{bridge.address}",
            "ADMIN": bridge.key,
            "CAMERA": "north",
            "EPOCH": str(EPOCH),
            "SEQUENCE": str(chosen.id.sequence),
            "CAPTURED_AT": chosen.captured_at.isoformat(),
            "X": str((left[0] + left[2]) / 2),
            "Y": str((left[1] + left[3]) / 2),
            "SINCE": shown[FIRST].captured_at.isoformat(),
            "UNTIL": shown[LAST].captured_at.isoformat(),
        }
        make_keys, ask, approve, fetch, withdraw = blocks("subject-requests.md")
        known = read_out(tmp_path, variables, make_keys, ask, 'echo; echo "$ASKS $FIRST $REQUEST"').split()[-3:]
        keys = dict(zip(("ASKS", "FIRST", "REQUEST"), known, strict=True))
        asks, first = (
            httpx.Client(base_url=f"http://{bridge.address}", timeout=30, headers=bearer(keys[name]))
            for name in ("ASKS", "FIRST")
        )
        place = f"/v1/subject-requests/{keys['REQUEST']}"
        own = asks.post(f"{place}/approvals", json={"verdict": "approve", "note": "mine"})
        assert own.status_code == 403
        second = read_out(tmp_path, variables, make_keys, 'echo "$SECOND"').split()[-1]
        read_out(tmp_path, {**variables, **keys, "SECOND": second}, approve)
        assert asks.get(place).json()["state"] == "approved"
        assert asks.get(f"{place}/content").status_code == 409

        stack.start("reveal")
        until(stack, lambda: attempts(bridge) == 1)
        os.kill(stack.pid("reveal"), signal.SIGKILL)
        stack.wait_until_ended("reveal", 20)
        with bridge.app.state.database.begin() as session:
            session.execute(update(RequestRow).values(leased_until=began))  # its lease runs out
        stack.start("reveal")
        until(stack, lambda: asks.get(place).json()["state"] != "approved")
        ready = asks.get(place).json()
        assert ready["state"] == "ready", ready
        kept = datetime.fromisoformat(ready["footage_until"]) - datetime.fromisoformat(ready["created_at"])
        assert timedelta(minutes=5) < kept < timedelta(minutes=stack.settings.raw_retention_minutes)
        assert ready["clip"]["frames"] == ready["clip"]["shown"] == LAST - FIRST + 1

        assert first.get(f"{place}/content").status_code == 403
        part = asks.get(f"{place}/content", headers={"Range": "bytes=0-99"})
        assert (part.status_code, len(part.content)) == (206, 100)
        read_out(tmp_path, {**variables, **keys}, fetch)
        film = (tmp_path / "clip.mp4").read_bytes()
        assert film[:100] == part.content
        with av.open(str(tmp_path / "clip.mp4")) as container:
            pictures = [picture.to_ndarray(format="bgr24").astype(int) for picture in container.decode(video=0)]
        wanted = [frame.id.sequence for frame in shown[FIRST : LAST + 1]]
        face = cut((left[0] + 6, left[1] + 6, left[2] - 6, left[3] - 6))  # it moves by a little
        for number, picture in zip(wanted, pictures, strict=True):
            original = originals[number].astype(int)
            assert abs(picture[face] - original[face]).mean() < 6
            for others in (cut(right), (slice(130, 210), slice(500, 600))):  # the other's face, and body
                assert np.ptp(picture[others], axis=(0, 1)).max() <= 8
                assert abs(picture[others].mean() - GREY) < 8

        assert stores.make(stack.settings).shred("north", datetime.now(UTC) + timedelta(hours=2))
        refused = read_out(
            tmp_path,
            {**variables, **keys},
            ask.replace("-sSf", "-sS").replace("| sed", "| tee /dev/stderr | sed"),
            'echo "$REQUEST"',
        )
        assert '"status":410' in refused
        assert f"shredded at {datetime.now(UTC):%Y-%m-%dT}" in refused
        late = row(bridge)  # approved before the key was shredded: the worker finds out
        until(stack, lambda: asks.get(f"/v1/subject-requests/{late}").json()["state"] != "approved")
        answer = asks.get(f"/v1/subject-requests/{late}/content")
        assert (answer.status_code, "shredded at" in answer.json()["detail"]) == (410, True)

        read_out(tmp_path, {**variables, **keys}, withdraw)
        assert asks.get(place).json()["state"] == "withdrawn"
        assert asks.get(f"{place}/content").status_code == 409
        assert stack.stop("reveal") == 0
        asks.close()
        first.close()

    told = [Disclosure.from_message(m.key(), m.value()) for m in read_topic(stack.settings, DISCLOSURES)]
    ours = [disclosure.act.value for disclosure in told if disclosure.request in place]
    assert ours == ["requested", "approved", "approved", "made", "delivered", "delivered", "withdrawn"]
    assert [disclosure.act.value for disclosure in told if disclosure.request == late] == ["gone"]
    assert not any(film[:64] in (m.value() or b"") for m in read_topic(stack.settings, DISCLOSURES))
    log = stack.log("reveal").read_text()
    assert "attempt 2" in log


def read_out(folder: Path, variables: dict[str, str], *lines: str) -> str:
    """What a page's lines print; one that fails fails the test."""
    script = "\n".join(lines)
    environment = {**os.environ, **variables}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def attempts(bridge: Bridge) -> int:
    with bridge.app.state.database.read() as session:
        return session.scalar(select(RequestRow.attempts)) or 0


def row(bridge: Bridge) -> str:
    """The request again, approved, as if it had waited for a worker."""
    with bridge.app.state.database.begin() as session:
        found = session.scalars(select(RequestRow)).one()
        fields = {column.name: getattr(found, column.name) for column in RequestRow.__table__.columns}
        again = {"id": "f" * 32, "state": "approved", "clip": None, "upload": None, "attempts": 0}
        session.add(RequestRow(**{**fields, **again}))
    return "f" * 32


def until(stack: Stack, condition: Callable[[], bool]) -> None:
    stack.wait_for("reveal", 120, condition)
