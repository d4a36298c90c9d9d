"""``sfumato record`` as users run it: an ordinary MP4 of what is on the topic, each picture once, at its own speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from sfumato.agents.mp4 import Film, Timeline
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.schemas.frame import AnonymizedFrame
from tests.filming import BEGAN, SIZE, Encoder, plain, shade
from tests.test_bridge import frame
from tests.test_bridge_process import publish
from tests.test_cli import sfumato

TIMEOUT = 60.0
ENOUGH = 150
"""Pictures after which x264 has surely put something out."""


def still(camera: str, sequence: int, size: tuple[int, int] = SIZE, **changes: Any) -> AnonymizedFrame:
    """A JPEG of the sequence's shade, captured at 25 pictures a second."""
    payload = images.encode(plain(shade(sequence), size), 95)
    captured_at = BEGAN + timedelta(seconds=sequence / 25)
    return frame(camera, sequence, payload, captured_at=captured_at, width=size[0], height=size[1], **changes)


def environment(settings: Settings) -> dict[str, str]:
    return {"BOOTSTRAP_SERVERS": settings.bootstrap_servers, "TOPIC_PREFIX": settings.topic_prefix}


def recorded(settings: Settings, out: Path, *options: str, camera: str = "north") -> dict[str, Any]:
    """The summary of a recording of what is in the topic."""
    arguments = ("--camera", camera, "--out", str(out), "--from", "beginning", "--until-end", *options)
    result = sfumato("record", *arguments, **environment(settings))
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return json.loads(result.stdout)


def shown(out: Path) -> list[tuple[float, float]]:
    """Time and brightness of each picture in the file."""
    with av.open(str(out)) as file:
        (stream,) = file.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        return [(picture.time, float(picture.to_ndarray(format="bgr24").mean())) for picture in file.decode(stream)]


class Recording:
    """A recording of camera north that runs; its log tells when it reads."""

    def __init__(self, settings: Settings, out: Path, *options: str) -> None:
        self._log = out.with_suffix(".log")
        variables = {f"SFUMATO_{name}": value for name, value in environment(settings).items()}
        command = [sys.executable, "-m", "sfumato.agents.cli", "record", "--camera", "north", "--out", str(out)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options], env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=log
            )

    def __enter__(self) -> Recording:
        self.wait_until(lambda: "reading" in self._log.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_until(self, condition: Any) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, self._log.read_text()
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.02)

    def parts(self) -> list[Path]:
        """The file as it grows."""
        return [path for path in self._log.parent.iterdir() if path.suffix == ".part"]

    def summary(self) -> dict[str, Any]:
        output, _ = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0, self._log.read_text()
        return json.loads(output)


def test_h264_and_jpeg_alike_each_picture_once_at_its_own_speed(topics, tmp_path):
    first, second = Encoder("north", interval=5), Encoder("north", interval=5)
    killed, successor = first.film(*range(14)), second.film(*range(10, 20))
    mixed = [*killed[:13], *successor[:2], killed[13], *successor[2:]]  # for a moment the two runs interleave
    publish(topics, *mixed, *(still("south", n) for n in range(10)), still("south", 4))
    summary = recorded(topics, tmp_path / "north.mp4")
    assert summary == {
        "camera": "north",
        "file": str(tmp_path / "north.mp4"),
        "frames": 20,
        "duplicates": 4,
        "undecodable": 0,
        "seconds": 0.76,
        "width": 320,
        "height": 180,
    }
    pictures = shown(tmp_path / "north.mp4")
    assert [time for time, _ in pictures] == pytest.approx([n / 25 for n in range(20)], abs=0.001)
    assert [bright for _, bright in pictures] == pytest.approx([shade(n) for n in range(20)], abs=5)
    summary = recorded(topics, tmp_path / "south.mp4", camera="south")
    assert (summary["frames"], summary["duplicates"]) == (10, 1)
    pictures = shown(tmp_path / "south.mp4")
    assert [time for time, _ in pictures] == pytest.approx([n / 25 for n in range(10)], abs=0.001)
    assert [bright for _, bright in pictures] == pytest.approx([shade(n) for n in range(10)], abs=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north.mp4", "south.mp4"]


def test_other_sizes_codecs_and_epochs_go_into_one_film(topics, tmp_path):
    later = BEGAN + timedelta(seconds=2)
    publish(
        topics,
        *(still("north", n) for n in range(3)),
        *Encoder("north", (120, 180)).film(3, 4),
        *Encoder("north").film(*range(3), epoch=2, began=later),
        still("north", 9),  # of the epoch that is over
    )
    summary = recorded(topics, tmp_path / "north.mp4")
    assert (summary["frames"], summary["duplicates"]) == (8, 1)
    assert (summary["width"], summary["height"]) == SIZE
    with av.open(str(tmp_path / "north.mp4")) as file:
        pictures = [(picture.time, picture.to_ndarray(format="bgr24")) for picture in file.decode(video=0)]
    times = [0, 0.04, 0.08, 0.12, 0.16, 2, 2.04, 2.08]
    assert [time for time, _ in pictures] == pytest.approx(times, abs=0.002)
    portrait = pictures[3][1]
    assert portrait[:, :90].mean() < 5
    assert portrait[:, -90:].mean() < 5
    assert portrait[:, 104:216].mean() == pytest.approx(shade(3), abs=6)


def test_what_cannot_be_decoded_is_counted_and_left_out(topics, tmp_path):
    units = Encoder("north", interval=5).film(*range(12))
    broken = replace(still("north", 12), payload=b"\xff\xd8\xff\xe0 broken")
    refused = replace(still("north", 13), payload=b"no picture")
    publish(topics, *units[3:7], *units[8:], broken, refused)
    summary = recorded(topics, tmp_path / "north.mp4")
    # 3 and 4 lie before the first keyframe; after the missing 7 there is none before 10.
    assert (summary["frames"], summary["undecodable"]) == (4, 4)
    assert [bright for _, bright in shown(tmp_path / "north.mp4")] == pytest.approx(
        [shade(n) for n in (5, 6, 10, 11)], abs=5
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_completes_the_file(topics, tmp_path, number):
    publish(topics, *Encoder("north").film(0))  # lies in the topic before "now"
    with Recording(topics, tmp_path / "north.mp4") as recording:
        publish(topics, *Encoder("north").film(*range(1, ENOUGH)))
        recording.wait_until(recording.parts)
        assert not (tmp_path / "north.mp4").exists()
        recording.process.send_signal(number)
        summary = recording.summary()
    pictures = shown(tmp_path / "north.mp4")
    assert len(pictures) == summary["frames"]
    assert pictures[0][1] == pytest.approx(shade(1), abs=5)
    assert recording.parts() == []


def test_seconds_end_it(topics, tmp_path):
    with Recording(topics, tmp_path / "live.mp4", "--seconds", "1") as recording:
        publish(topics, *Encoder("north", interval=5).film(*range(10)))
        assert recording.summary()["frames"] == 10
    publish(topics, *Encoder("north", interval=5).film(*range(10, 50)))
    arguments = ("--camera", "north", "--out", str(tmp_path / "past.mp4"), "--from", "beginning", "--seconds", "1")
    summary = json.loads(sfumato("record", *arguments, **environment(topics)).stdout)
    assert summary["frames"] == 25


def test_a_killed_recording_does_not_look_complete(topics, tmp_path):
    with Recording(topics, tmp_path / "north.mp4") as recording:
        publish(topics, *Encoder("north").film(*range(ENOUGH)))
        recording.wait_until(recording.parts)
        recording.process.kill()
        recording.process.wait()
    assert list(tmp_path.glob("*.mp4")) == []


def test_mistakes_are_named(topics, tmp_path):
    out = tmp_path / "north.mp4"
    out.write_bytes(b"precious")
    publish(topics, still("north", 0))
    beginning = ("--from", "beginning", "--until-end")

    def said(*arguments: str, **changes: str) -> str:
        result = sfumato("record", *arguments, **{**environment(topics), **changes})
        assert result.returncode != 0
        assert "Traceback" not in result.stderr
        return result.stderr

    assert "--force" in said("--camera", "north", "--out", str(out), *beginning)
    assert out.read_bytes() == b"precious"
    new = str(tmp_path / "new.mp4")
    assert "no frame of camera south" in said("--camera", "south", "--out", new, *beginning)
    assert "no frame of camera north" in said("--camera", "north", "--out", new, "--seconds", "0.3")
    assert "there is no topic nowhere.frames" in said("--camera", "north", "--out", new, TOPIC_PREFIX="nowhere.")
    assert "not a folder" in said("--camera", "north", "--out", str(tmp_path / "none" / "x.mp4"))
    assert "id matches" in said("--camera", "../north", "--out", new)
    assert "--from beginning" in said("--camera", "north", "--out", new, "--until-end")
    assert list(tmp_path.iterdir()) == [out]
    assert recorded(topics, out, "--force")["frames"] == 1


def test_times_never_go_back():
    timeline = Timeline()
    units = Encoder("north").film(*range(3))
    early = [replace(unit, id=unit.id._replace(epoch=2)) for unit in units]  # an epoch ingested faster than filmed
    times = [timeline.place(each) for each in (units[0], units[2], units[1], *early)]
    assert times == pytest.approx([0, 0.08, 0.081, 0.082, 0.122, 0.162])


def test_nonsense_in_the_stream_s_own_time_is_not_believed():
    timeline = Timeline()
    units = Encoder("north").film(*range(4))
    absurd = replace(units[1], unit=replace(units[1].unit, pts=2**63 - 1))
    times = [timeline.place(each) for each in (units[0], absurd, units[2], units[3])]
    assert times == pytest.approx([0, 0.04, 0.08, 0.12], abs=0.02)


def test_memory_stays_the_same(tmp_path):
    """Ten minutes of pictures as fast as possible; what grows is the file's index alone."""
    process = psutil.Process()
    noise = np.random.default_rng(0).integers(0, 256, (4, 120, 160, 3), dtype=np.uint8)
    pictures = [av.VideoFrame.from_ndarray(image, format="bgr24") for image in noise]
    sizes = []
    with Film(tmp_path / "film.mp4") as film:
        for n in range(15_000):
            film.add(pictures[n // 100 % 4], n / 25)
            if n in (3_000, 14_999):
                sizes.append(process.memory_info().rss)
        film.finish()
    assert sizes[1] - sizes[0] < 12_000_000
    times = [time for time, _ in shown(tmp_path / "film.mp4")]
    assert len(times) == 15_000
    assert {round(after - before, 4) for before, after in pairwise(times)} == {0.04}
