"""What comes out of jobs plays in Chromium and is as long as what went in, by ffprobe."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from sfumato.schemas.job import JobState
from tests import films
from tests.films import scene, write
from tests.jobbing import workshop
from tests.viewing import ARGUMENTS, CHROMIUM

RATE = 25


def probe(path: Path) -> tuple[Fraction, int, Fraction]:
    """Duration in seconds, packets and the first picture's time, of the video."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets", "-of", "json"]
    entries = "format=duration,start_time:stream=nb_read_packets"
    told = json.loads(
        subprocess.run([*command, "-show_entries", entries, path], check=True, capture_output=True).stdout
    )
    (stream,) = told["streams"]
    return Fraction(told["format"]["duration"]), int(stream["nb_read_packets"]), Fraction(told["format"]["start_time"])


@pytest.mark.parametrize(("ending", "media_type"), [(".mp4", "video/mp4"), (".webm", "video/webm")])
def test_a_film_joined_from_parts_plays_in_chromium(tmp_path: Path, ending: str, media_type: str) -> None:
    pictures = (scene(n) for n in range(5 * RATE))
    source = write(tmp_path / f"a{ending}", pictures, options={"g": "25"}, adorn=films.tone)
    with workshop(tmp_path) as shop:
        job = shop.create(source, options={"keep_audio": True})
        shop.work()
        done = shop.jobs.get(job.id)
        assert done.state is JobState.SUCCEEDED
        result = done.files[0].result
        assert result is not None
        assert (result.content_type, result.sound) == (media_type, True)
        target = tmp_path / f"masked{ending}"
        target.write_bytes(shop.fetch(job))
    before, after = probe(source), probe(target)
    assert after[1] == before[1]
    assert abs(after[0] - before[0]) <= Fraction(1, RATE)
    assert abs(after[2] - before[2]) <= Fraction(1, RATE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.route("**/film", lambda route: route.fulfill(path=target, content_type=media_type))
        page.route("**/blank", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
        page.goto("http://localhost/blank")
        page.evaluate("""() => {
          window.video = document.createElement("video");
          Object.assign(video, { muted: true, src: "/film" });
          document.body.append(video);
          video.playbackRate = 4;
          video.play();
        }""")
        page.wait_for_function("video.ended || video.error", timeout=60_000)
        told = page.evaluate("[video.error?.message ?? '', video.videoWidth, video.duration, video.currentTime]")
        browser.close()
    assert told[:2] == ["", 192]
    assert told[2] == pytest.approx(float(before[0]), abs=1.5 / RATE)
    assert told[3] == pytest.approx(told[2], abs=0.1)
