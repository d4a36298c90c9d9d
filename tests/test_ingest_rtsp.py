"""Ingest from a real RTSP server, which is killed and started again in mid-stream."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sfumato.agents.broker import free_port
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Reason
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
    port = free_port()
    base = f"rtsp://cam:s3%2Fcr%40t@127.0.0.1:{port}"
    (tmp_path / "cameras.toml").write_text(
        f"[[camera]]\nid = 'h264'\nurl = '{base}/h264'\n[[camera]]\nid = 'mjpeg'\nurl = '{base}/mjpeg'\n"
    )
    with Ingest(topics, tmp_path, "--cameras", str(tmp_path / "cameras.toml")) as ingest:
        with rtsp_server(port, "cam", SECRET):
            for camera in ("h264", "mjpeg"):
                ingest.until_frames(camera, 70)  # the first sender report comes after some 5 s
        # kill -9: the connection breaks
        before = {c: int(ingest.metric("sfumato_ingested_frames_total", camera=c)) for c in ("h264", "mjpeg")}
        for camera in before:
            ingest.until(lambda c=camera: ingest.metric("sfumato_reconnects_total", camera=c) >= 1)
        with rtsp_server(port, "cam", SECRET):
            for camera in before:
                ingest.until_frames(camera, before[camera] + 20)
            assert ingest.stop() == 0, ingest.log
    found, records = frames(topics), epochs(topics)
    for camera in before:
        assert_gapless(found[camera], records[camera])
        assert len(found[camera]) >= before[camera] + 20
        assert set(records[camera][-1].dropped) <= {Reason.UNDECODABLE}  # joined between two keyframes
        assert sum(records[camera][-1].dropped.values()) <= 20
        times = [frame.captured_at for frame in found[camera]]
        assert all(abs((later - earlier).total_seconds()) < 60 for earlier, later in itertools.pairwise(times))
        # By arrival until the camera has told its clock, then by that.
        told = [frame.time_source for frame in found[camera][: before[camera]]]
        assert told[0] is TimeSource.ARRIVAL
        assert told[-1] is TimeSource.CAMERA
    for frame in (found["h264"][-1], found["mjpeg"][-1]):
        assert images.decode(frame.payload, "image/jpeg", max_pixels=10**6).shape == (240, 320, 3)
    assert SECRET not in ingest.log
    assert "s3%2Fcr%40t" not in ingest.log


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
