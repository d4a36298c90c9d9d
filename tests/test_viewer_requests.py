"""Subject requests in a real Chromium, by what a person does: chosen on a picture, approved by another, fetched."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from sfumato.agents.files.uploads import fill
from sfumato.agents.footage import stores
from sfumato.schemas.scope import Scope
from sfumato.schemas.topics import AUDIT
from tests import films
from tests.requesting import clip
from tests.test_api_audit import event
from tests.test_bridge import Bridge, frame
from tests.viewing import chromium, faults, opened, scene

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)

BOXES = {
    "person, its middle behind a face": ("person", (60, 80, 160, 340)),
    "face": ("face", (80, 180, 140, 240)),
    "person, alone": ("person", (400, 120, 500, 350)),
    "person, behind the next": ("person", (560, 100, 630, 300)),
    "person, in front of the last": ("person", (570, 110, 620, 290)),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> bytes:
    return films.write(tmp_path_factory.mktemp("film") / "clip.mp4", [films.scene(n) for n in range(3)]).read_bytes()


@pytest.fixture
def captured_at() -> datetime:
    return datetime.now(UTC) - timedelta(seconds=30)


@pytest.fixture
def bridge(topics, captured_at) -> Iterator[Bridge]:
    found = [{"class": kind, "score": 0.9, "box": box} for kind, box in BOXES.values()]
    with Bridge(topics.model_copy(update={"subject_approvals": 1})) as bridge:
        of = {"captured_at": captured_at, "width": 640, "height": 360}
        audited = event(7, "north", detections=found, audited_at=captured_at + timedelta(seconds=1), **of)
        bridge.send(AUDIT, audited.to_message())
        bridge.publish(frame("north", 7, scene(200), **of))
        bridge.wait_until(lambda: "north" in bridge.app.state.live.cameras)
        yield bridge


@pytest.fixture
def page(browser, bridge) -> Iterator[Page]:
    with opened(browser, bridge, place="Requests") as page:
        expect(people(page)).to_have_count(len(BOXES))
        yield page


def people(page: Page) -> Locator:
    return page.get_by_role("radiogroup", name="Person").get_by_role("radio")


def click(page: Page, x: float, y: float) -> None:
    """On this pixel of the picture."""
    picture = page.get_by_alt_text("Anonymized picture north/1/7")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + x / 640 * box["width"], box["y"] + y / 360 * box["height"])


def outlined(page: Page) -> tuple[float, ...]:
    """Where the chosen one's box is drawn, in pixels of the picture."""
    found: list[float] = page.evaluate("""() => {
      const picture = document.querySelector(".still img").getBoundingClientRect();
      const box = document.querySelector(".boxes .picked").getBoundingClientRect();
      const [across, down] = [640 / picture.width, 360 / picture.height];
      return [across * (box.left - picture.left), down * (box.top - picture.top),
        across * (box.right - picture.left), down * (box.bottom - picture.top)];
    }""")
    return tuple(found)


def ask(page: Page) -> Locator:
    """For the person who stands alone; the request on the page."""
    click(page, 420, 140)
    expect(page.get_by_role("radio", name="person 2, right")).to_be_checked()
    assert outlined(page) == pytest.approx(BOXES["person, alone"][1], abs=1)
    page.get_by_label("Reason, for the record").fill("request under Article 15 GDPR")
    page.get_by_label("Case number").fill("2026-0815")
    page.get_by_role("button", name="Send the request").click()
    expect(page.get_by_text("Sent. Approvals wanted: 1.")).to_be_visible()
    return shown(page)


def shown(page: Page) -> Locator:
    request = page.get_by_role("list", name="Requests", exact=True).locator("> li")
    expect(request).to_have_count(1)
    return request


def stored(bridge: Bridge) -> dict[str, Any]:
    (request,) = bridge.get("/v1/subject-requests").json()["items"]
    return dict(request)


def make(bridge: Bridge, film: bytes) -> None:
    """What ``sfumato reveal`` does."""
    requests, uploads = bridge.app.state.subject_requests, bridge.app.state.uploads
    claim = requests.claim("worker")
    upload = uploads.create(f"subject-request:{claim.request.id}", None).id
    requests.adopt(claim, upload)
    fill(uploads, upload, [film])
    uploads.complete(upload)
    requests.made(claim, clip(claim.request).model_copy(update={"bytes": len(film)}))


def test_one_clicks_another_approves_and_who_asked_fetches_the_clip(browser, bridge, page, captured_at, film):
    request = ask(page)
    made = stored(bridge)
    assert (made["target"], made["kind"], made["sequence"]) == ("person", "access", 7)
    assert tuple(made["box"][side] for side in ("left", "top", "right", "bottom")) == BOXES["person, alone"][1]
    span = [datetime.fromisoformat(made[name]) - captured_at for name in ("since", "until")]
    assert [round(part.total_seconds()) for part in span] == [-5, 5]
    expect(request).to_contain_text("0 of 1 approvals")
    expect(request).to_contain_text("the footage may be deleted from ")
    expect(request.get_by_role("button", name="Withdraw")).to_be_visible()
    expect(request.get_by_role("button", name="Approve")).to_have_count(0)
    assert faults(page) == []
    with opened(browser, bridge, Scope.SUBJECTS_READ, Scope.SUBJECTS_APPROVE, width=375) as other:
        expect(shown(other).get_by_role("button", name="Withdraw")).to_have_count(0)
        expect(other.get_by_role("button", name="Send the request")).to_have_count(0)
        shown(other).get_by_role("button", name="Approve").click()
        expect(shown(other).get_by_text("Say what you checked")).to_be_visible()
        other.keyboard.type("identity checked at the counter")
        other.keyboard.press("Tab")
        other.keyboard.press("Enter")
        expect(shown(other)).to_contain_text("the clip is being made")
        expect(shown(other).get_by_role("heading")).to_be_focused()  # the buttons are gone
        assert faults(other) == []
        make(bridge, film)
        expect(shown(other).get_by_text("ready")).to_be_visible()
        expect(shown(other).get_by_role("link")).to_have_count(0)
    with page.expect_download() as download:
        request.get_by_role("link", name="Download the clip").click()
    assert download.value.path().read_bytes() == film
    request.get_by_role("button", name="Withdraw").click()
    page.get_by_role("button", name="Withdraw the request").click()
    expect(request.get_by_text("withdrawn")).to_be_visible()
    expect(request.get_by_role("link")).to_have_count(0)


def test_with_the_keyboard_alone(page, bridge):
    behind = [people(page).nth(i) for i in range(len(BOXES)) if not people(page).nth(i).is_enabled()]
    assert len(behind) == 2  # two of a kind, one in front of the other: the API could not tell which is meant
    page.get_by_role("button", name="Newer picture").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="person 1, left")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("radio", name="person 1, left")).to_be_checked()
    assert page.locator(".boxes .picked").get_attribute("title") == "person 1, left"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # the kind
    for text in ("2", "3", "complaint", "2026-0816"):
        page.keyboard.press("Tab")
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Sent. Approvals wanted: 1.")).to_be_visible()
    made = stored(bridge)
    assert (made["kind"], made["target"], made["box"]["left"]) == ("removal", "person", 60)
    assert (made["reason"], made["case"]) == ("complaint", "2026-0816")
    since, until = (datetime.fromisoformat(made[name]) for name in ("since", "until"))
    assert (until - since).total_seconds() == 5


def test_what_is_refused_stands_at_its_field_and_what_is_gone_with_its_date(page, bridge, captured_at):
    page.get_by_role("button", name="Send the request").click()
    expect(page.get_by_text("Choose a person.")).to_be_visible()
    expect(people(page).first).to_be_focused()
    click(page, 420, 140)
    for label in ("Reason, for the record", "Case number"):
        page.get_by_label(label).fill("2026-0815")
    after = page.get_by_label("Seconds after it")
    after.fill("600")
    page.keyboard.press("Enter")
    expect(page.get_by_text("ask for a shorter clip")).to_be_visible()
    expect(after).to_be_focused()
    expect(after).to_have_attribute("aria-invalid", "true")
    after.fill("0")
    keys = stores.make(bridge.settings)
    keys.make("north", stores.hour_of(captured_at))
    keys.shred("north", datetime.now(UTC) + timedelta(hours=2))
    page.get_by_role("button", name="Send the request").click()
    expect(page.get_by_role("alert").get_by_text(f"shredded at {datetime.now(UTC):%Y-%m-%dT%H}")).to_be_visible()
    expect(page.get_by_role("alert").get_by_text("shredded at")).to_be_focused()
    assert faults(page) == []
    assert bridge.get("/v1/subject-requests").json()["items"] == []


def test_a_key_that_the_requester_made_is_refused_and_anothers_refusal_ends_it(browser, bridge, page):
    ask(page)
    scopes = [Scope.SUBJECTS_READ, Scope.SUBJECTS_APPROVE]
    own = bridge.app.state.keys.create(
        "own", scopes, cameras=["*"], purpose="tests", made_by=stored(bridge)["requested_by"]
    )
    for secret, said in ((own.secret, "who asks does not decide"), (bridge.key, "You: refuse")):
        context = browser.new_context()
        other = context.new_page()
        other.goto(f"http://{bridge.address}/#key={secret}")
        other.get_by_role("link", name="Requests").click()
        shown(other).get_by_label("What you checked").fill("not this person")
        shown(other).get_by_role("button", name="Refuse").click()
        expect(shown(other)).to_contain_text(said)
        context.close()
    assert stored(bridge)["approvals"][0]["note"] == "not this person"
    assert stored(bridge)["state"] == "refused"


def test_who_lacks_a_scope_sees_no_tab_and_no_form(browser, bridge):
    with opened(browser, bridge, Scope.CAMERAS_READ, Scope.AUDIT_READ) as page:
        expect(page.get_by_role("link", name="Live")).to_be_visible()
        expect(page.get_by_role("link", name="Requests")).to_have_count(0)
        page.goto(f"http://{bridge.address}/#requests")
        expect(page.get_by_role("heading", name="Requests")).to_have_count(0)
    with opened(browser, bridge, Scope.SUBJECTS_READ, Scope.SUBJECTS_REQUEST) as page:
        expect(page.get_by_text("No request yet.")).to_be_visible()
        expect(page.get_by_text("A new request wants the scopes cameras:read and audit:read, too.")).to_be_visible()
        expect(page.get_by_role("button", name="Send the request")).to_have_count(0)
