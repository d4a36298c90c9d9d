"""Jobs in a real Chromium: files are sent, watched, cancelled, shown and fetched, by what a person does."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from sfumato.models import images
from sfumato.schemas.job import JobRequest
from sfumato.schemas.scope import Scope
from tests.fake_jobs import Jobs
from tests.test_bridge import Bridge
from tests.viewing import chromium, faults, opened, scene

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)

PICTURE = {"name": "Mrs Smith: garden?.jpg", "mimeType": "image/jpeg", "buffer": scene(180)}
NOISE = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), dtype=np.uint8)
LARGE = {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": images.encode(NOISE, 98)}
CHUNK = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def bridge(topics) -> Iterator[Bridge]:
    with Bridge(topics) as bridge:
        yield bridge


@pytest.fixture
def jobs(bridge) -> Jobs:
    jobs = Jobs()
    jobs.result = scene(90)
    bridge.app.include_router(jobs.router)
    return jobs


@pytest.fixture
def page(browser, bridge, jobs) -> Iterator[Page]:
    with opened(browser, bridge, place="Jobs") as page:
        yield page


def job(page: Page) -> Locator:
    return page.get_by_role("list", name="Jobs").get_by_role("listitem")


def arrived(bridge: Bridge, asked: JobRequest) -> bytes:
    """What lies in the first upload of a job."""
    upload = asked.files[0].upload
    assert upload is not None
    with bridge.app.state.uploads.open(upload) as file:
        content: bytes = file.read()
    return content


def start(page: Page) -> None:
    page.get_by_role("button", name="Upload and mask").click()


def test_a_picture_is_sent_masked_shown_and_fetched(page, bridge, jobs):
    page.get_by_label("Pictures and films").set_input_files(PICTURE)
    page.get_by_role("checkbox", name="licence plate").uncheck()
    page.get_by_role("checkbox", name="person").check()
    page.get_by_label("Mask", exact=True).select_option("noise")
    page.get_by_label("Purpose, for the record").fill("Press release")
    start(page)
    expect(page.get_by_text("The job is made.")).to_be_visible()
    (asked,) = jobs.requests
    assert arrived(bridge, asked) == PICTURE["buffer"]
    assert asked.files[0].name is None  # it may tell who is in it
    assert (set(asked.policy.targets), asked.policy.mask) == ({"face", "person"}, "noise")
    assert asked.purpose == "Press release"
    expect(job(page)).to_contain_text("queued")
    (id,) = jobs.jobs
    jobs.advance(id, 40)
    row = job(page).get_by_role("row").last
    expect(row).to_contain_text("40 of 100")
    expect(job(page).get_by_role("progressbar")).to_have_attribute("value", "0.4")
    jobs.advance(id, 100)
    expect(row).to_contain_text("100 of 100 (2 fully)")
    expect(row).to_contain_text("3.0 MB")
    expect(job(page).get_by_text("succeeded").first).to_be_visible()
    page.get_by_role("button", name="Show file-1.jpg").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="file-1.jpg")
    expect(dialog.get_by_role("img", name="file-1.jpg, masked")).to_be_visible()
    assert dialog.get_by_role("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 640
    assert faults(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show file-1.jpg")).to_be_focused()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download file-1.jpg").click()
    assert download.value.path().read_bytes() == jobs.result


def test_the_file_that_was_chosen_is_never_shown(page):
    page.get_by_label("Pictures and films").set_input_files([PICTURE, LARGE])
    expect(page.get_by_role("list", name="Chosen files").get_by_role("listitem")).to_have_count(2)
    assert page.locator("#jobs img, #jobs video, #jobs canvas").count() == 0
    page.get_by_role("button", name="Remove large.jpg").click()
    expect(page.get_by_role("list", name="Chosen files").get_by_role("listitem")).to_have_count(1)
    assert faults(page) == []


def test_results_are_named_after_files_on_request(page, jobs):
    page.get_by_label("Pictures and films").set_input_files(PICTURE)
    page.get_by_role("checkbox", name="Name results after the files").check()
    start(page)
    expect(page.get_by_text("The job is made.")).to_be_visible()
    assert jobs.requests[0].files[0].name == "Mrs Smith_ garden_"


def test_files_can_be_dropped(page):
    script = """() => {
      const data = new DataTransfer();
      data.items.add(new File(["x"], "dropped.jpg", { type: "image/jpeg" }));
      return data;
    }"""
    data = page.evaluate_handle(script)
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": data})
    expect(page.get_by_role("list", name="Chosen files")).to_contain_text("dropped.jpg")


def test_an_upload_goes_on_after_the_network_was_lost(page, bridge, jobs):
    """Each chunk but the first is cut off once; what had arrived is not sent again."""
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
    page.get_by_label("Pictures and films").set_input_files(LARGE)
    start(page)
    expect(page.get_by_text("waiting for the network")).to_be_visible()
    expect(page.get_by_text("The job is made.")).to_be_visible(timeout=20_000)
    assert sent == [0, CHUNK, CHUNK]
    assert CHUNK < len(LARGE["buffer"]) < 2 * CHUNK
    assert arrived(bridge, jobs.requests[0]) == LARGE["buffer"]


def test_sending_can_be_stopped_and_leaves_nothing(page, bridge, jobs):
    begun: list[str] = []
    page.on("response", lambda response: begun.extend([response.headers["location"]] if response.status == 201 else []))
    page.route("**/v1/uploads/*", lambda route: route.abort() if route.request.method == "PATCH" else route.continue_())
    page.get_by_label("Pictures and films").set_input_files(PICTURE)
    start(page)
    expect(page.get_by_text("waiting for the network")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped. Nothing is kept.")).to_be_visible()
    expect(page.get_by_role("button", name="Upload and mask")).to_be_enabled()
    page.wait_for_function("!document.querySelector('#job-form progress:not([hidden])')")
    assert jobs.requests == []
    assert [bridge.get(address).status_code for address in begun] == [404]


def test_what_is_missing_is_said(page):
    start(page)
    expect(page.get_by_role("alert")).to_have_text("Choose a file.")
    expect(page.get_by_label("Pictures and films")).to_be_focused()


def test_a_job_is_cancelled_after_asking(page, jobs):
    id = jobs.add("holiday")
    jobs.advance(id, 10)
    cancel = page.get_by_role("button", name=f"Cancel job {id[:8]}")
    cancel.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Keep it running")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    assert jobs.jobs[id].state == "running"
    cancel.click()
    dialog.get_by_role("button", name="Cancel the job").click()
    expect(job(page).get_by_text("cancelled").first).to_be_visible()
    expect(cancel).to_be_hidden()
    assert jobs.jobs[id].state == "cancelled"


def test_where_events_do_not_come_progress_is_asked_for(page, jobs):
    page.route(re.compile("/events$"), lambda route: route.fulfill(status=404))
    id = jobs.add("holiday")
    jobs.advance(id, 10)
    expect(job(page)).to_contain_text("10 of 100")
    jobs.advance(id, 70)
    expect(job(page)).to_contain_text("70 of 100")


def test_who_may_only_read_jobs_makes_and_cancels_none(browser, bridge, jobs):
    jobs.advance(jobs.add("holiday"), 10)
    with opened(browser, bridge, Scope.JOBS_READ, place="Jobs") as page:
        expect(job(page)).to_contain_text("10 of 100")
        expect(page.get_by_role("button", name="Upload and mask")).to_have_count(0)
        expect(page.get_by_role("button", name=re.compile("Cancel"))).to_have_count(0)


@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_and_everything_has_a_name(browser, bridge, jobs, width):
    for done in (10, 100):
        jobs.advance(jobs.add("holiday", "a-very-long-name-of-a-film-that-somebody-has-made"), done)
    with opened(browser, bridge, place="Jobs", width=width) as page:
        expect(job(page)).to_have_count(2)
        page.get_by_label("Pictures and films").set_input_files([PICTURE, LARGE])
        assert faults(page) == []
        page.screenshot(path=f"/tmp/jobs-{width}.png", full_page=True)
