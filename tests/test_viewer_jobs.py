"""Jobs in a real Chromium: files are sent, watched, cancelled, shown and fetched, by what a person does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from sfumato.agents.archive import Archivist
from sfumato.agents.files.sealing import MasterKeys
from sfumato.agents.jobs.rows import JobRow
from sfumato.models import images
from sfumato.schemas.job import Job
from sfumato.schemas.scope import Scope
from tests import films
from tests.test_bridge import Bridge
from tests.viewing import chromium, faults, opened

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)

PICTURE = {"name": "Mrs Smith: garden?.jpg", "mimeType": "image/jpeg", "buffer": images.encode(films.scene(0), 95)}
NOISE = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), dtype=np.uint8)
LARGE = {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": images.encode(NOISE, 98)}
CHUNK = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def bridge(topics) -> Iterator[Bridge]:
    with Bridge(topics.model_copy(update={"archive_part_seconds": 2.0})) as bridge:
        yield bridge


@pytest.fixture
def archivist(bridge) -> Archivist:
    """The worker; it does one piece of work at each ``step``, and masks red squares."""
    state, keys = bridge.app.state, MasterKeys(bridge.settings)
    return Archivist(bridge.settings, state.database, state.uploads, state.desk.blobs, keys, films.ensemble())


@pytest.fixture
def page(browser, bridge) -> Iterator[Page]:
    with opened(browser, bridge, place="Jobs") as page:
        yield page


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> dict[str, object]:
    """Eight seconds of H.264, which are masked in parts."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    films.write(path, [films.scene(n) for n in range(200)], options={"g": "20"})
    return {"name": path.name, "mimeType": "video/mp4", "buffer": path.read_bytes()}


def finish(archivist: Archivist) -> None:
    while archivist.step():
        pass


def job(page: Page) -> Locator:
    return page.get_by_role("list", name="Jobs").get_by_role("listitem")


def hand_in(page: Page, *files: object) -> None:
    page.get_by_label("Pictures and films").set_input_files(files)  # type: ignore[arg-type]
    page.get_by_role("checkbox", name="licence plate").uncheck()  # the worker has no detector of them
    page.get_by_role("button", name="Upload and mask").click()
    expect(page.get_by_text("The job is made.")).to_be_visible(timeout=20_000)


def handed_in(bridge: Bridge) -> Job:
    """The one job that there is."""
    with bridge.app.state.database.begin() as session:
        (row,) = session.query(JobRow).all()
    job: Job = bridge.app.state.desk.jobs.get(row.id)
    return job


def policy_of(bridge: Bridge) -> dict[str, Any]:
    """By which it is masked."""
    with bridge.app.state.database.begin() as session:
        (row,) = session.query(JobRow).all()
    policy: dict[str, Any] = row.policy
    return policy


def test_a_picture_is_sent_masked_shown_and_fetched(page, bridge, archivist):
    page.get_by_label("Mask", exact=True).select_option("inpaint")
    page.get_by_label("Purpose, for the record").fill("Press release")
    hand_in(page, PICTURE)
    assert {target: masking["mask"] for target, masking in policy_of(bridge)["targets"].items()} == {"face": "inpaint"}
    assert (handed_in(bridge).purpose, handed_in(bridge).files[0].name) == ("Press release", "file-0")
    expect(job(page).get_by_text("queued").first).to_be_visible()
    finish(archivist)
    row = job(page).get_by_role("row").last
    expect(row).to_contain_text("1 of 1")
    expect(job(page).get_by_text("succeeded").first).to_be_visible()
    result = handed_in(bridge).files[0].result
    for column, count in ((1, len(PICTURE["buffer"])), (2, result.bytes)):
        kilobytes = f"{count / 1000:.1f}" if count < 10_000 else f"{count / 1000:.0f}"
        expect(row.get_by_role("cell").nth(column)).to_have_text(f"{kilobytes} kB")
    page.get_by_role("button", name="Show file-0.jpg").focus()
    page.keyboard.press("Enter")
    picture = page.get_by_role("dialog", name="file-0.jpg").get_by_role("img", name="file-0.jpg, masked")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == films.SIZE[0]
    assert faults(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show file-0.jpg")).to_be_focused()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download file-0.jpg").click()
    fetched = download.value.path().read_bytes()
    assert len(fetched) == result.bytes
    assert not films.red(images.decode(fetched, "image/jpeg", max_pixels=10**6)).any()


def test_a_film_shows_its_progress_and_plays(page, archivist, film):
    hand_in(page, film)
    row, seen = job(page).get_by_role("row").last, set()
    expect(row).to_contain_text("queued")
    while archivist.step():
        expect(job(page).get_by_text(re.compile("running|succeeded")).first).to_be_visible()
        seen.add(row.get_by_role("cell").nth(3).text_content())
    expect(row).to_contain_text("200 of 200")
    page.get_by_role("button", name="Show file-0.mp4").click()
    video = page.locator("#preview video")
    video.evaluate("video => { video.muted = true; return video.play(); }")
    page.wait_for_function("document.querySelector('#preview video').currentTime > 0")
    assert video.evaluate("video => video.duration") == pytest.approx(8, abs=0.04)
    page.keyboard.press("Escape")
    expect(video).to_have_count(0)


def test_where_events_come_progress_is_not_asked_for(page, bridge, archivist, film):
    hand_in(page, film)
    expect(job(page).get_by_text("queued").first).to_be_visible()
    page.route("**/v1/jobs?*", lambda route: route.abort())  # the list; what changes from now on, events tell
    archivist.step()
    archivist.step()
    expect(job(page).get_by_role("row").last).to_contain_text("of 200")
    expect(job(page).get_by_text("running").first).to_be_visible()


def test_where_events_do_not_come_progress_is_asked_for(page, archivist, film):
    page.route(re.compile("/events$"), lambda route: route.fulfill(status=404))
    hand_in(page, film)
    archivist.step()
    archivist.step()
    expect(job(page).get_by_role("row").last).to_contain_text("of 200")
    finish(archivist)
    expect(job(page).get_by_text("succeeded").first).to_be_visible()


def test_the_file_that_was_chosen_is_never_shown(page):
    page.get_by_label("Pictures and films").set_input_files([PICTURE, LARGE])
    chosen = page.get_by_role("list", name="Chosen files").get_by_role("listitem")
    expect(chosen).to_have_count(2)
    assert page.locator("#jobs img, #jobs video, #jobs canvas").count() == 0
    page.get_by_role("button", name="Remove large.jpg").click()
    expect(chosen).to_have_count(1)
    assert faults(page) == []


def test_results_are_named_after_files_on_request(page, bridge):
    page.get_by_role("checkbox", name="Name results after the files").check()
    hand_in(page, PICTURE)
    assert handed_in(bridge).files[0].name == "Mrs Smith_ garden_"


def test_files_can_be_dropped(page):
    script = """() => {
      const data = new DataTransfer();
      data.items.add(new File(["x"], "dropped.jpg", { type: "image/jpeg" }));
      return data;
    }"""
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(script)})
    expect(page.get_by_role("list", name="Chosen files")).to_contain_text("dropped.jpg")


def test_an_upload_goes_on_after_the_network_was_lost(page, bridge, archivist):
    """The second chunk is cut off once; what had arrived is not sent again."""
    sent: list[int] = []

    def cut(route: Route) -> None:
        offset = int(route.request.headers.get("upload-offset", "0"))
        if route.request.method == "PATCH":
            sent.append(offset)
            if offset and sent.count(offset) == 1:
                route.abort("connectionreset")
                return
        route.continue_()

    page.route("**/v1/uploads/*", cut)
    assert CHUNK < len(LARGE["buffer"]) < 2 * CHUNK
    hand_in(page, LARGE)
    assert sent == [0, CHUNK, CHUNK]
    finish(archivist)
    expect(job(page).get_by_text("succeeded").first).to_be_visible()
    assert handed_in(bridge).files[0].bytes_before == len(LARGE["buffer"])


def test_sending_can_be_stopped_and_leaves_nothing(page, bridge):
    begun: list[str] = []
    page.on("response", lambda response: begun.extend([response.headers["location"]] if response.status == 201 else []))
    page.route("**/v1/uploads/*", lambda route: route.abort() if route.request.method == "PATCH" else route.continue_())
    page.get_by_label("Pictures and films").set_input_files(PICTURE)
    page.get_by_role("button", name="Upload and mask").click()
    expect(page.get_by_text("waiting for the network")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped. Nothing is kept.")).to_be_visible()
    expect(page.get_by_role("button", name="Upload and mask")).to_be_enabled()
    (address,) = begun
    with bridge.app.state.database.begin() as session:
        assert session.query(JobRow).all() == []
    assert page.request.get(f"http://{bridge.address}{address}").status == 404


def test_what_the_api_refuses_is_said(page):
    page.get_by_label("Pictures and films").set_input_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"?"})
    page.get_by_role("button", name="Upload and mask").click()
    expect(page.get_by_role("alert")).to_contain_text("JPEG, PNG, WebP, MP4, MOV, MKV or WebM")
    page.get_by_role("button", name="Remove a.jpg").click()
    page.get_by_role("button", name="Upload and mask").click()
    expect(page.get_by_role("alert")).to_have_text("Choose a file.")
    expect(page.get_by_label("Pictures and films")).to_be_focused()


def test_a_job_is_cancelled_after_asking(page, bridge, archivist, film):
    hand_in(page, film)
    archivist.step()
    id = handed_in(bridge).id
    cancel = page.get_by_role("button", name=f"Cancel job {id[:8]}")
    cancel.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Keep it running")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    assert not handed_in(bridge).state.ended
    cancel.click()
    dialog.get_by_role("button", name="Cancel the job").click()
    expect(job(page).get_by_text("cancelled").first).to_be_visible()
    expect(cancel).to_be_hidden()
    assert handed_in(bridge).state == "cancelled"


def test_jobs_of_others_are_not_shown_and_readers_make_none(browser, bridge, page):
    hand_in(page, PICTURE)
    with opened(browser, bridge, Scope.JOBS_READ, place="Jobs") as reader:
        expect(reader.get_by_text("No job yet.")).to_be_visible()
        expect(reader.get_by_role("button", name="Upload and mask")).to_have_count(0)


@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_and_everything_has_a_name(browser, bridge, archivist, film, width):
    with opened(browser, bridge, place="Jobs", width=width) as page:
        hand_in(page, PICTURE, film)
        finish(archivist)
        hand_in(page, film)
        archivist.step()
        expect(job(page)).to_have_count(2)
        page.get_by_label("Pictures and films").set_input_files([PICTURE, LARGE])
        assert faults(page) == []
