"""HLS of an H.264 camera, in PyAV, ffprobe and Chromium."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from itertools import count, islice, pairwise

import av
import pytest
from playwright.sync_api import sync_playwright

from sfumato.agents import hls
from sfumato.agents.live import Live
from tests.filming import Encoder, shade
from tests.test_bridge import Bridge, bridge, frame  # noqa: F401
from tests.viewing import ARGUMENTS, CHROMIUM


def put(held: Live, *units) -> hls.Window:  # type: ignore[no-untyped-def]
    for unit in units:
        held.put(unit)
    return held.cameras["north"].hls


def durations(playlist: str) -> list[float]:
    return [float(text) for text in re.findall(r"#EXTINF:([\d.]+),", playlist)]


def tag(playlist: str, name: str) -> int:
    return int(re.search(rf"#EXT-X-{name}:(\d+)", playlist)[1])


def test_the_window_moves_and_its_numbers_go_on():
    window = put(Live(), *Encoder("north").film(0))
    window.want()
    held = Live()
    window = put(held, *Encoder("north").film(0))
    window.want()
    encoder = Encoder("north", interval=5)
    put(held, *encoder.film(*range(1, 22)))
    first = window.playlist()
    put(held, *encoder.film(*range(22, 102)))
    second = window.playlist()
    assert durations(first) == [0.04] + [0.2] * 4
    assert durations(second) == [0.2] * hls.LISTED
    assert tag(second, "MEDIA-SEQUENCE") == tag(first, "MEDIA-SEQUENCE") + 21 - hls.LISTED
    assert tag(second, "DISCONTINUITY-SEQUENCE") == tag(first, "DISCONTINUITY-SEQUENCE") + 1
    assert [text.count("#EXT-X-DISCONTINUITY\n") for text in (first, second)] == [1, 0]
    assert len(window.segments) == hls.LISTED + hls.SPARE
    assert tag(second, "TARGETDURATION") == 1


def test_only_the_last_segment_is_kept_while_nobody_asks():
    assert len(put(Live(), *Encoder("north", interval=5).film(*range(60))).segments) == 1


def test_bytes_of_the_window_are_bounded(monkeypatch):
    monkeypatch.setattr(hls, "WINDOW_BYTES", 5000)
    held = Live()
    window = put(held, *Encoder("north").film(0))
    window.want()
    put(held, *Encoder("north", interval=5).film(*range(1, 100)))
    assert 1 <= len(window.segments) < hls.LISTED
    assert sum(segment.group.size for segment in window.segments) <= 5000


def test_a_long_group_raises_the_target_duration():
    held = Live()
    window = put(held, *Encoder("north", interval=60).film(*range(61)))
    assert durations(window.playlist()) == [2.4]
    assert tag(window.playlist(), "TARGETDURATION") == 3
    put(held, *Encoder("north", interval=5).film(*range(61, 80)))
    assert tag(window.playlist(), "TARGETDURATION") == 3


def test_a_gap_and_a_new_run_are_discontinuities_and_repeated_groups_are_left_out():
    first = Encoder("north", interval=5).film(*range(16))
    second = Encoder("north", interval=5).film(*range(5, 21))
    held = Live()
    window = put(held, first[0])
    window.want()
    put(held, *first[1:7], *first[8:], *second)
    text = window.playlist()
    lines = [line for line in text.splitlines() if line == "#EXT-X-DISCONTINUITY" or line.endswith(".m4s")]
    kinds = ["-" if line.startswith("#") else "s" for line in lines]
    assert "".join(kinds) == "ss-ss-s-s"
    groups = [[arrival.frame.id.sequence for arrival in segment.group.arrivals] for segment in window.segments]
    # Of the second run, 5 to 9 bring 7, 8 and 9; 10 to 14 nothing; 15 to 19 all but 15.
    assert [group[0] for group in groups] == [0, 5, 10, 15, 5, 15]
    assert groups[1] == [5, 6]
    assert all(segment.group.new for segment in window.segments)
    times = re.findall(r"PROGRAM-DATE-TIME:(\S+)", text)
    assert times[1] == "2026-11-24T12:00:00.200Z"


def test_a_silence_is_a_discontinuity_and_does_not_make_a_long_segment():
    held = Live()
    encoder = Encoder("north", interval=5)
    window = put(held, *encoder.film(0))
    window.want()
    put(held, *encoder.film(1, 2, 3, 4))  # then an hour of nothing, once between two groups and once within one
    put(held, *encoder.film(90_000, 90_001, 90_002, 180_000, 180_001, 180_002))
    put(held, *encoder.film(*range(180_003, 180_010)))
    text = window.playlist()
    assert durations(text) == [0.2, 0.2]
    assert (text.count("#EXT-X-DISCONTINUITY\n"), tag(text, "TARGETDURATION")) == (1, 1)


def test_segments_continue_one_another_and_begin_anew_after_a_break():
    held = Live()
    encoder = Encoder("north", interval=5)
    window = put(held, *encoder.film(*range(100, 101)))
    window.want()
    put(held, *encoder.film(*range(101, 111)), *Encoder("north", interval=5).film(*range(111, 117)))
    starts = []
    for segment in window.segments:
        with av.open(io.BytesIO(b"".join(hls.mux(segment)))) as file:
            starts.append(next(file.decode(video=0)).pts)
    assert starts == [0, 18_000, 36_000, 0]


@contextmanager
def playing(bridge: Bridge, camera: str) -> Iterator[threading.Event]:  # noqa: F811
    """Ten pictures a second, keyframes every half second, from a thread; a new run when the event is set."""
    ending, restart = threading.Event(), threading.Event()

    def play() -> None:
        encoder = Encoder(camera, interval=5, fps=10)
        for sequence in count():
            if ending.wait(0.1):
                return
            if restart.is_set():
                restart.clear()
                encoder = Encoder(camera, interval=5, fps=10)
            bridge.publish(*encoder.film(sequence, captured_at=datetime.now(UTC)))

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield restart
    finally:
        ending.set()
        thread.join()


def test_plays_in_an_ordinary_player(bridge):  # noqa: F811
    url = f"http://{bridge.address}/v1/cameras/north/hls/index.m3u8"
    said = f"Authorization: Bearer {bridge.key}\r\n"
    with playing(bridge, "north"):
        bridge.wait_until(lambda: "north" in bridge.shown())
        with av.open(url, timeout=30, options={"headers": said}) as player:
            shown = list(islice(player.decode(video=0), 25))
        playlist = bridge.get("/v1/cameras/north/hls/index.m3u8")
        assert playlist.headers["content-type"] == "application/vnd.apple.mpegurl"
        assert playlist.headers["cache-control"] == "no-cache"
        segment = bridge.get("/v1/cameras/north/hls/" + playlist.text.split()[-1])
        assert (segment.status_code, segment.headers["content-type"]) == (200, "video/mp4")
        if ffprobe := shutil.which("ffprobe"):
            command = [
                ffprobe,
                "-v",
                "error",
                "-of",
                "json",
                "-show_streams",
                "-read_intervals",
                "%+#5",
                "-headers",
                said,
                url,
            ]
            probed = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
            assert [(s["codec_name"], s["width"], s["height"]) for s in probed["streams"]] == [("h264", 320, 180)]
    brightnesses = [picture.to_ndarray(format="bgr24").mean() for picture in shown]
    begin = round((brightnesses[0] - 30) / 10)
    assert brightnesses == pytest.approx([shade(begin + n) for n in range(25)], abs=5)
    steps = [after.pts * after.time_base - before.pts * before.time_base for before, after in pairwise(shown)]
    assert set(steps) == {Fraction(1, 10)}


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_plays_in_chromium(bridge):  # noqa: F811
    with playing(bridge, "north") as restart, sync_playwright() as playwright:
        bridge.wait_until(lambda: "north" in bridge.shown())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        bridge.sign_in(page)
        page.route("**/blank", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
        page.goto(f"http://{bridge.address}/blank")
        page.evaluate("""() => {
          window.video = document.createElement("video");
          Object.assign(video, { muted: true, src: "/v1/cameras/north/hls/index.m3u8" });
          document.body.append(video);
          video.play();
        }""")
        page.wait_for_function("video.videoWidth === 320 && video.currentTime > 1", timeout=60_000)
        restart.set()
        begun = page.evaluate("video.currentTime")
        page.wait_for_function(f"video.currentTime > {begun + 4}", timeout=60_000)
        playlist = bridge.get("/v1/cameras/north/hls/index.m3u8").text
        assert tag(playlist, "DISCONTINUITY-SEQUENCE") + playlist.count("#EXT-X-DISCONTINUITY\n") == 1
        pixel = page.evaluate("""() => {
          const canvas = new OffscreenCanvas(320, 180), context = canvas.getContext("2d");
          context.drawImage(video, 0, 0);
          return [...context.getImageData(160, 90, 1, 1).data];
        }""")
        browser.close()
    assert 20 <= pixel[0] <= 240
    assert max(pixel[:3]) - min(pixel[:3]) <= 3


def test_other_cameras_are_told_what_to_do(bridge):  # noqa: F811
    bridge.publish(frame("still", 0))
    bridge.publish(*Encoder("north", interval=3).film(*range(4)))
    bridge.wait_until(lambda: {"still", "north"} <= bridge.shown().keys())
    for path, said in (
        ("still/hls/index.m3u8", 'output = { codec = "h264" }'),
        ("nobody/hls/index.m3u8", "/v1/cameras"),
        ("north/hls/5.m4s", "playlist"),
    ):
        response = bridge.get(f"/v1/cameras/{path}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert said in response.json()["detail"]
    assert bridge.get("/v1/cameras/north/hls/x.m4s").status_code == 422
