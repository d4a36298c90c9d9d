"""The viewer in a real Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sfumato.models import images
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.scope import Scope
from tests.test_bridge import Bridge, frame
from tests.viewing import chromium, opened, scene

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


@pytest.fixture
def bridge(topics) -> Iterator[Bridge]:
    with Bridge(topics) as bridge:
        yield bridge


@pytest.fixture
def page(bridge) -> Iterator[Page]:
    with chromium() as browser, opened(browser, bridge, Scope.CAMERAS_READ) as page:
        yield page


def tile(page: Page, camera: str):  # type: ignore[no-untyped-def]
    return page.locator(f'.tile[data-camera="{camera}"]')


def brightness(page: Page, selector: str) -> float:
    """The mean of a canvas's red channel."""
    script = """selector => {
      const canvas = document.querySelector(selector);
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let sum = 0;
      for (let i = 0; i < data.length; i += 4) sum += data[i];
      return sum / (data.length / 4);
    }"""
    return float(page.evaluate(script, selector))


def test_says_what_to_do_while_there_is_no_camera(page):
    expect(page.get_by_role("heading", name="No camera yet")).to_be_visible()
    expect(page.locator("#summary")).to_have_text("Waiting for cameras")


def test_cameras_appear_play_and_can_be_enlarged(page, bridge):
    bridge.publish(frame("north", 0, scene(200), width=640, height=360), frame("south", 0, scene(80)))
    for camera in ("north", "south"):
        expect(tile(page, camera).locator(".outcome")).to_have_text("masked", timeout=10_000)
    canvas = '.tile[data-camera="north"] canvas'
    assert brightness(page, canvas) == pytest.approx(150, abs=8)
    bridge.publish(frame("north", 1, scene(60), width=640, height=360))
    page.wait_for_function(f"""() => {{
      const c = document.querySelector('{canvas}');
      return c.getContext('2d').getImageData(600, 100, 1, 1).data[0] < 100;
    }}""")
    tile(page, "north").get_by_role("button").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("heading")).to_have_text("north")
    assert brightness(page, "dialog canvas") == pytest.approx(45, abs=8)
    bridge.publish(frame("north", 2, scene(200), width=640, height=360))
    page.wait_for_function("""() => {
      const c = document.querySelector('dialog canvas');
      return c.getContext('2d').getImageData(600, 100, 1, 1).data[0] > 150;
    }""")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_a_fully_masked_camera_says_why(page, bridge):
    refused = {"outcome": Outcome.FULLY_MASKED, "reason": Reason.NO_POLICY, "policy_version": None}
    bridge.publish(frame("north", 0, images.grey(640, 360), **refused))
    notice = tile(page, "north").locator(".notice")
    expect(notice).to_have_text("Fully masked: no policy for this camera", timeout=10_000)
    bridge.publish(frame("north", 1, scene(200)))
    expect(notice).to_be_hidden()


def test_a_silent_camera_becomes_stale_then_lost_and_comes_back(page, bridge):
    bridge.publish(frame("north", 0, scene(200)))
    expect(tile(page, "north").locator(".outcome")).to_have_text("masked", timeout=10_000)
    bridge.publish(frame("north", 1, scene(200)))  # the first may have grown stale before the page saw it
    expect(tile(page, "north")).to_have_attribute("data-state", "live", timeout=6_000)
    expect(tile(page, "north")).to_have_attribute("data-state", "stale", timeout=6_000)
    expect(tile(page, "north")).to_have_attribute("data-state", "lost", timeout=15_000)
    expect(page.locator("#summary")).to_have_text("1 lost")
    bridge.publish(frame("north", 2, scene(200)))
    expect(tile(page, "north")).to_have_attribute("data-state", "live")


@pytest.mark.parametrize("width", [375, 1920])
def test_fits_phones_and_walls(page, bridge, width, tmp_path):
    page.set_viewport_size({"width": width, "height": 900})
    cameras = [f"camera-{i}" for i in range(7)]
    refused = {"outcome": Outcome.FULLY_MASKED, "reason": Reason.NO_POLICY}
    for sequence in (0, 1):  # once to be found, once more to be live
        bridge.publish(*(frame(c, sequence, scene(40 + 25 * i)) for i, c in enumerate(cameras[:-1])))
        bridge.publish(frame(cameras[-1], sequence, images.grey(640, 360), **refused))
        for camera in cameras:
            expect(tile(page, camera)).to_be_attached(timeout=10_000)
        expect(tile(page, "camera-0").locator(".outcome")).to_have_text("masked", timeout=10_000)
    expect(tile(page, "camera-0")).to_have_attribute("data-state", "live", timeout=10_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first, second = (tile(page, camera).bounding_box() for camera in cameras[:2])
    assert (first["y"] == second["y"]) == (width > 1000)
    page.screenshot(path=Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"viewer-{width}.png")
