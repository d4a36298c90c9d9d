"""Screenshots of the viewer for the documentation, from the demonstration's clips: docs/images/*.png.

Needs Chromium (``CHROMIUM``, else /usr/bin/chromium) and the requirements of the tests. Run it after a change of the
viewer, and look at what it wrote.
"""

from __future__ import annotations

import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from clips import clip
from demo import cameras_table, demonstration_policies
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect, sync_playwright
from stack import Stack

from sfumato.agents.fetch import fetch_weights
from sfumato.models import images
from sfumato.schemas.zone import Zone

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
COLOURS = 256
LARGEST = 200_000
"""Bytes of a screenshot."""
WINDOWS = Zone(name="windows", polygon=((0.02, 0.03), (0.30, 0.03), (0.27, 0.45), (0.02, 0.52)))
FPS = 3.0
"""Taken from each camera."""
PATIENCE = 120_000
"""Milliseconds for what a worker has to do first."""


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="sfumato-screenshots-"))
    list(fetch_weights(Stack("", folder).settings))
    table = cameras_table("", FPS)
    (folder / "cameras.toml").write_text(table["text"])
    with Stack("embedded", folder, bridge_port=0) as stack, sync_playwright() as playwright:
        general, first = demonstration_policies(table["ids"])
        stack.publish(general, first.model_copy(update={"zones": (WINDOWS,)}))
        stack.start("anonymize")
        stack.start("archive", metrics_port=0)
        stack.start("bridge")
        stack.wait_for_worker()
        stack.wait_for_bridge()
        stack.start("ingest", "--cameras", str(folder / "cameras.toml"), metrics_port=0)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1000, "height": 640})
        page.goto(f"{stack.bridge_url}/")
        expect(page.get_by_label("API key")).to_be_focused()
        keep(page, "sign-in")
        page.goto(f"{stack.bridge_url}/#key={stack.key}")
        live(page, table["ids"])
        policy(page, table["ids"][0])
        jobs(page)
        requests(page, table["ids"][1])
        browser.close()
    return 0


def live(page: Page, cameras: list[str]) -> None:
    for camera in cameras:
        tile = page.locator(f'.tile[data-camera="{camera}"][data-state="live"]')
        expect(tile.locator(".outcome")).to_have_text("masked", timeout=PATIENCE)
    keep(page, "live")


def policy(page: Page, camera: str) -> None:
    page.get_by_role("link", name="Policies").click()
    page.get_by_role("link", name=f"{camera} version").click()
    picture = page.get_by_alt_text(f"Newest anonymized picture of {camera}")
    expect(picture).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="windows, corner 3 of 4").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("group", name="Zones", exact=True).evaluate("part => part.scrollIntoView()")
    keep(page, "policy")


def jobs(page: Page) -> None:
    page.get_by_role("link", name="Jobs").click()
    still: FilePayload = {"name": "taxi.jpg", "mimeType": "image/jpeg", "buffer": first_picture("carphone")}
    page.get_by_label("Pictures and films").set_input_files(clip("carphone"))
    page.get_by_role("button", name="Upload and mask").click()
    expect(page.get_by_text("succeeded").first).to_be_visible(timeout=PATIENCE)
    page.get_by_label("Pictures and films").set_input_files([still])
    page.get_by_role("button", name="Upload and mask").click()
    expect(page.locator('.badge[data-state="succeeded"]')).to_have_count(2, timeout=PATIENCE)
    page.set_viewport_size({"width": 1000, "height": 900})
    page.evaluate("scrollTo(0, 0)")
    keep(page, "jobs")


def requests(page: Page, camera: str) -> None:
    page.get_by_role("link", name="Requests").click()
    page.get_by_label("Camera", exact=True).select_option(camera)
    page.get_by_role("radio").first.check(timeout=PATIENCE)
    page.get_by_label("Seconds after it").fill("0")  # the newest picture has none yet
    page.get_by_label("Reason, for the record").fill("request under Article 15 GDPR")
    page.get_by_label("Case number").fill("2026-0815")
    page.get_by_role("button", name="Send the request").click()
    expect(page.get_by_role("list", name="Requests").get_by_text("pending")).to_be_visible()
    page.set_viewport_size({"width": 1000, "height": 1040})
    page.evaluate("scrollTo(0, 0)")
    keep(page, "requests")


def first_picture(name: str) -> bytes:
    with av.open(str(clip(name))) as container:
        return images.encode(next(container.decode(video=0)).to_ndarray(format="bgr24").astype(np.uint8), 90)


def keep(page: Page, name: str) -> None:
    path = IMAGES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.open(BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE).save(
        path, optimize=True
    )
    size = path.stat().st_size
    print(f"{path}: {size} bytes", file=sys.stderr)
    if size > LARGEST:
        raise SystemExit(f"{path}: larger than {LARGEST} bytes")


if __name__ == "__main__":
    sys.exit(main())
