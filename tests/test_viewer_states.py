"""The viewer in a real Chromium when something is old, out of sight, broken or gone."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest
from playwright.sync_api import expect

from sfumato.agents.broker import free_port
from tests.test_bridge import frame, metric
from tests.test_bridge_process import Process, publish
from tests.test_viewer import bridge, brightness, page, tile  # noqa: F401
from tests.viewing import chromium, scene

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


@contextmanager
def playing(send: Callable[..., None], *cameras: str) -> Iterator[None]:
    """Five frames per second of each camera, from a thread."""
    ending = threading.Event()

    def play() -> None:
        for sequence in count(1000):
            send(*(frame(camera, sequence, scene(120)) for camera in cameras))
            if ending.wait(0.2):
                return

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def test_an_old_picture_is_not_called_live(page, bridge):  # noqa: F811
    bridge.publish(frame("north", 0, scene(200)))
    bridge.wait_until(lambda: bridge.shown().get("north", {}).get("state") == "stale")
    page.add_init_script("""
      window.states = new Set();
      new MutationObserver((changes) => changes.forEach(({ target }) => states.add(target.dataset.state)))
        .observe(document, { subtree: true, attributeFilter: ["data-state"] });
    """)
    page.reload()
    expect(tile(page, "north").locator(".outcome")).to_have_text("masked")
    page.wait_for_function("states.has('stale') || states.has('lost')")
    assert "live" not in page.evaluate("[...states]")


def test_cameras_out_of_sight_count_without_a_connection(page, bridge):  # noqa: F811
    page.set_viewport_size({"width": 375, "height": 500})
    cameras = [f"camera-{i}" for i in range(7)]
    with playing(bridge.publish, *cameras):
        expect(page.locator("#summary")).to_have_text("7 live", timeout=10_000)
        assert 1 <= metric(bridge, "sfumato_bridge_viewers") < 7
        # Longer than the page takes between two looks at /v1/cameras, in which the state must hold.
        page.evaluate("""() => {
          window.heads = new Set();
          const summary = document.getElementById("summary");
          new MutationObserver(() => heads.add(summary.textContent)).observe(summary, { childList: true });
        }""")
        for _ in range(3):
            with page.expect_response("**/v1/cameras?*"):
                pass
        assert page.evaluate("[...heads]") == []
        tile(page, cameras[-1]).scroll_into_view_if_needed()
        expect(tile(page, cameras[-1]).locator(".outcome")).to_have_text("masked")
        expect(page.locator("#summary")).to_have_text("7 live")


def test_a_picture_that_cannot_be_drawn_leaves_the_last_one(page, bridge):  # noqa: F811
    bridge.publish(frame("north", 0, scene(200)))
    canvas = '.tile[data-camera="north"] canvas'
    expect(tile(page, "north").locator(".outcome")).to_have_text("masked", timeout=10_000)
    bridge.publish(frame("north", 1, b"\xff\xd8\xff\xe0 broken"))
    expect(tile(page, "north")).to_have_attribute("data-state", "stale", timeout=10_000)
    assert brightness(page, canvas) == pytest.approx(150, abs=8)
    bridge.publish(frame("north", 2, scene(60)))  # the socket is open still
    expect(tile(page, "north")).to_have_attribute("data-state", "live")
    assert brightness(page, canvas) == pytest.approx(45, abs=8)


def test_enlarging_another_camera_leaves_nothing_of_the_last(page, bridge):  # noqa: F811
    with playing(bridge.publish, "north", "south"):
        for camera in ("north", "south"):
            expect(tile(page, camera)).to_have_attribute("data-state", "live", timeout=10_000)
            button = page.get_by_role("button", name=f"{camera}, live. Enlarge")
            button.click()
            expect(page.get_by_role("dialog", name=camera)).to_be_visible()
            expect(page.locator("#enlarged-facts")).to_contain_text("64\u00d736")
            page.get_by_role("button", name="Close").click()
            expect(button).to_be_focused()


def test_a_bridge_that_goes_is_noticed_and_found_again(topics, tmp_path):
    port = free_port()

    def start() -> Process:
        return Process(topics.bootstrap_servers, topics.topic_prefix, tmp_path / "log", port)

    with chromium() as browser, start() as first:
        first.wait_for("/readyz", 200)
        page = browser.new_page()
        page.goto(f"http://{first.address}/#key={first.key}")
        publish(topics, frame("north", 0, scene(200)))
        expect(tile(page, "north").locator(".outcome")).to_have_text("masked", timeout=10_000)
        assert first.end(signal.SIGTERM) == 0
        expect(page.locator("#summary")).to_have_text("The bridge does not answer.", timeout=10_000)
        expect(tile(page, "north")).to_have_attribute("data-state", re.compile("stale|lost"), timeout=10_000)
        with start() as second:
            second.wait_for("/readyz", 200)
            with playing(partial(publish, topics), "north"):
                expect(tile(page, "north")).to_have_attribute("data-state", "live", timeout=30_000)
                expect(page.locator("#summary")).to_have_text("1 live", timeout=10_000)
