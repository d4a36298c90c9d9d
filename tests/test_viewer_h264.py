"""The viewer and H.264 in a real Chromium: played by WebCodecs, or as JPEG where the browser lacks them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sfumato.models import images
from sfumato.schemas.outcome import Outcome, Reason
from tests.filming import Encoder, shade
from tests.test_bridge import frame, picture
from tests.test_viewer import bridge, brightness, page, tile  # noqa: F401

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)

CANVAS = '.tile[data-camera="north"] canvas'

COUNT = """
  window.decoded = []; window.opened = []; window.sockets = []; window.left = 0; window.failed = 0;
  if (window.VideoDecoder) {
    const Native = window.VideoDecoder;
    window.VideoDecoder = class extends Native {
      constructor({ output, error }) {
        super({ error: (problem) => { window.failed += 1; error(problem); }, output: (frame) => {
          const close = frame.close.bind(frame);
          window.left += 1;
          frame.close = () => { window.left -= 1; close(); };
          decoded.push([frame.codedWidth, frame.codedHeight]);
          output(frame);
        } });
      }
      configure(config) { opened.push(config.codec); super.configure(config); }
    };
  }
  const Socket = window.WebSocket;
  window.WebSocket = class extends Socket { constructor(url) { super(url); sockets.push(url); } };
"""


@pytest.fixture
def watched(page: Page) -> Page:  # noqa: F811
    """The page, counting what its decoders put out."""
    page.add_init_script(COUNT)
    page.reload()
    return page


def shows(page: Page, sequence: int) -> None:  # noqa: F811
    """Wait until the camera's picture is on the canvas."""
    page.wait_for_function(
        f"""() => {{
          const c = document.querySelector('{CANVAS}');
          if (!c) return false;
          const red = c.getContext("2d").getImageData(c.width / 2, c.height / 2, 1, 1).data[0];
          return Math.abs(red - {shade(sequence)}) < 5;
        }}""",
        timeout=20_000,
    )


def test_a_camera_is_decoded_by_the_browser(watched, bridge, tmp_path):  # noqa: F811
    units = Encoder("north", (640, 360), interval=5).film(*range(12))
    bridge.publish(*units[:7])
    shows(watched, 6)
    for unit in units[7:]:
        bridge.publish(unit)
        shows(watched, unit.id.sequence)
    assert watched.evaluate("sockets.every((url) => url.endsWith('?video=h264'))")
    assert watched.evaluate("opened.length") == 1
    assert watched.evaluate("opened[0].startsWith('avc1.42')")
    assert watched.evaluate("decoded.length") >= 7
    assert watched.evaluate("left") == 0  # every frame was closed
    expect(tile(watched, "north").locator(".outcome")).to_have_text("masked")
    watched.screenshot(path=Path(os.environ.get("SCREENSHOTS", tmp_path)) / "viewer-h264.png")


def test_facts_belong_to_the_picture_shown(watched, bridge):  # noqa: F811
    encoder = Encoder("north")
    bridge.publish(*encoder.film(0))
    shows(watched, 0)
    masked = {"outcome": Outcome.FULLY_MASKED, "reason": Reason.DAMAGED}
    bridge.publish(*encoder.film(1, **masked))
    shows(watched, 1)
    notice = tile(watched, "north").locator(".notice")
    expect(notice).to_have_text("Fully masked: what the camera sent is damaged")
    bridge.publish(*encoder.film(2))
    shows(watched, 2)
    expect(notice).to_be_hidden()


def test_a_browser_without_webcodecs_gets_jpeg(page, bridge):  # noqa: F811
    page.add_init_script("delete window.VideoDecoder")
    page.add_init_script(COUNT)
    page.reload()
    encoder = Encoder("north", interval=5)
    for sequence in range(7):
        bridge.publish(*encoder.film(sequence))
    shows(page, 6)
    assert page.evaluate("sockets.length > 0 && sockets.every((url) => url.endsWith('/live'))")


def test_a_video_that_the_browser_cannot_decode_is_shown_as_jpeg(page, bridge):  # noqa: F811
    page.add_init_script("VideoDecoder.isConfigSupported = async () => ({ supported: false })")
    page.add_init_script(COUNT)
    page.reload()
    bridge.publish(*Encoder("north", interval=5).film(*range(7)))
    shows(page, 6)
    assert page.evaluate("sockets.at(-1).endsWith('/live')")
    assert page.evaluate("opened") == []


def test_a_new_run_of_another_size_replaces_the_old_one(watched, bridge):  # noqa: F811
    bridge.publish(*Encoder("north", interval=5).film(*range(7)))
    shows(watched, 6)
    bridge.publish(*Encoder("north", (200, 120), interval=5).film(*range(7, 9)))
    shows(watched, 8)
    assert watched.evaluate(f"(({{ width, height }}) => [width, height])(document.querySelector('{CANVAS}'))") == [
        200,
        120,
    ]
    assert watched.evaluate("opened.length") == 2


def test_pictures_that_a_new_run_repeats_are_not_drawn_again(watched, bridge):  # noqa: F811
    bridge.publish(*Encoder("north", interval=5).film(*range(7)))
    shows(watched, 6)
    before = watched.evaluate("decoded.length")
    drawn = "window.drawn = 0; const draw = CanvasRenderingContext2D.prototype.drawImage;"
    watched.evaluate(
        f"() => {{ {drawn} CanvasRenderingContext2D.prototype.drawImage = function (...a) "
        "{ drawn += 1; draw.apply(this, a); }; }"
    )
    again = Encoder("north", interval=5)
    bridge.publish(*again.film(*range(3, 7)))
    watched.wait_for_function(f"() => decoded.length >= {before + 4}")
    assert watched.evaluate("drawn") == 0
    bridge.publish(*again.film(7))
    shows(watched, 7)
    assert watched.evaluate("drawn") == 1


def test_a_camera_may_change_between_jpeg_and_h264(watched, bridge):  # noqa: F811
    bridge.publish(frame("north", 0, picture(shade(0))))
    shows(watched, 0)
    bridge.publish(*Encoder("north").film(1, 2))
    shows(watched, 2)
    refused = {"outcome": Outcome.FULLY_MASKED, "reason": Reason.NO_POLICY, "policy_version": None}
    bridge.publish(frame("north", 3, images.grey(64, 36), **refused))
    expect(tile(watched, "north").locator(".notice")).to_have_text("Fully masked: no policy for this camera")
    bridge.publish(*Encoder("north").film(4, 5))
    shows(watched, 5)
    expect(tile(watched, "north").locator(".notice")).to_be_hidden()


def test_after_a_broken_unit_it_goes_on_at_the_next_keyframe(watched, bridge):  # noqa: F811
    units = Encoder("north", interval=5).film(*range(12))
    bridge.publish(*units[:3])
    shows(watched, 2)
    start = units[3].payload[:5]
    bridge.publish(replace(units[3], payload=start + b"\xff" * 40), units[4])
    watched.wait_for_function("() => failed > 0")  # a keyframe that it had in hand by then is lost, too
    bridge.publish(*units[5:7])
    shows(watched, 6)
    assert watched.evaluate("sockets.filter((url) => !url.endsWith('?video=h264')).length") == 0
