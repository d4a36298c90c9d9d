"""Ingest from a real RTSP server, which is killed and started again in mid-stream."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sfumato.agents.broker import free_port
from sfumato.agents.settings import Settings
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.outcome import Reason
from sfumato.schemas.unit import H264, H265
from tests.footage import shown
from tests.ingesting import Ingest, assert_gapless, epochs, frames

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's, since GStreamer's bindings are its packages."""
SECRET = "s3/cr@t"

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


@contextmanager
def rtsp_server(port: int, *credentials: str) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("rtsp_server.py")
    process = subprocess.Popen([SYSTEM_PYTHON, str(script), str(port), *credentials], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_goes_on_after_the_server_was_killed(topics: Settings, tmp_path: Path) -> None:
    port, cameras = free_port(), ("h264", "h265", "mjpeg")
    base = f"rtsp://cam:s3%2Fcr%40t@127.0.0.1:{port}"
    (tmp_path / "cameras.toml").write_text("".join(f"[[camera]]\nid = '{c}'\nurl = '{base}/{c}'\n" for c in cameras))
    with Ingest(topics, tmp_path, "--cameras", str(tmp_path / "cameras.toml")) as ingest:
        with rtsp_server(port, "cam", SECRET):
            for camera in cameras:
                ingest.until_frames(camera, 70)  # the first sender report comes after some 5 s
        # kill -9: the connection breaks
        before = {c: int(ingest.metric("sfumato_ingested_frames_total", camera=c)) for c in cameras}
        for camera in cameras:
            ingest.until(lambda c=camera: ingest.metric("sfumato_reconnects_total", camera=c) >= 1)
        with rtsp_server(port, "cam", SECRET):
            for camera in cameras:
                ingest.until_frames(camera, before[camera] + 20)
            assert ingest.stop() == 0, ingest.log
    found, records = frames(topics), epochs(topics)
    for camera in cameras:
        assert_gapless(found[camera], records[camera])
        assert len(found[camera]) >= before[camera] + 20
        assert set(records[camera][-1].dropped) <= {Reason.NO_KEYFRAME}  # joined between two keyframes
        assert sum(records[camera][-1].dropped.values()) <= 20
        times = [frame.captured_at for frame in found[camera]]
        assert all(abs((later - earlier).total_seconds()) < 60 for earlier, later in itertools.pairwise(times))
        # By arrival until the camera has told its clock, then by that.
        told = [frame.time_source for frame in found[camera][: before[camera]]]
        assert told[0] is TimeSource.ARRIVAL
        assert told[-1] is TimeSource.CAMERA
        pictures = shown(found[camera])
        assert len(pictures) == len(found[camera])
        assert {image.shape for image in pictures} == {(240, 320, 3)}
        assert all(has_a_ball(image) for image in pictures)
    for camera, content_type in (("h264", H264), ("h265", H265)):
        assert_one_stream(found[camera], content_type, connections=2)
    assert ingest.log.count("is decoded here") == 0
    assert SECRET not in ingest.log
    assert "s3%2Fcr%40t" not in ingest.log


def has_a_ball(image: np.ndarray) -> bool:
    """GStreamer's picture: a white ball on black, nothing grey or green as from a decoder that lacks something."""
    return bool((image.max() > 200) and (np.median(image) < 20) and (np.ptp(image, axis=2).max() < 40))


def assert_one_stream(found: list[RawFrame], content_type: str, connections: int) -> None:
    """Each connection begins with a keyframe, and time runs on."""
    assert {frame.content_type for frame in found} == {content_type}
    assert {(frame.width, frame.height) for frame in found} == {(320, 240)}
    begun = [frame for frame in found if frame.unit.restart]
    assert len(begun) == connections
    assert found[0].unit.restart
    assert all(frame.unit.keyframe for frame in begun)
    units = [frame.unit for frame in found]
    assert all(a.pts < b.pts and a.time_base == b.time_base for a, b in itertools.pairwise(units))
    gaps = {round(b.seconds - a.seconds, 1) for a, b in itertools.pairwise(units) if not b.restart}
    assert gaps <= {0.0, 0.1, 0.2}
    assert 0.5 < begun[1].unit.seconds - found[found.index(begun[1]) - 1].unit.seconds < 30, "the server was away"


def test_wrong_credentials_are_said_without_showing_them(topics: Settings, tmp_path: Path) -> None:
    port = free_port()
    with (
        rtsp_server(port, "cam", SECRET),
        Ingest(topics, tmp_path, "--camera", f"a=rtsp://hunter:hunter2@127.0.0.1:{port}/h264") as ingest,
    ):
        ingest.until(lambda: ingest.metric("sfumato_reconnects_total", camera="a") >= 1)
        assert ingest.stop() == 0, ingest.log
    assert "401" in ingest.log
    assert "hunter" not in ingest.log
