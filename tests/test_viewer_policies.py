"""The policy editor in a real Chromium, by what a person does: with the mouse, and with the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from sfumato.agents.policies import publish
from sfumato.schemas.policy import Policy
from sfumato.schemas.scope import Scope
from tests.test_bridge import Bridge, frame
from tests.viewing import chromium, faults, opened, scene

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)

NORTH = Policy.model_validate(
    {
        "camera": "north",
        "version": 3,
        "controller": "City of Delft",
        "purpose": "Traffic counts",
        "lawful_basis": "public_task",
        "dpia": "DPIA-2026-014",
        "retention_hours": 24,
        "targets": {"face": {"threshold": 0.4}},
        "zones": [{"name": "windows", "polygon": [[0.1, 0.1], [0.4, 0.1], [0.4, 0.4], [0.1, 0.4]]}],
    }
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def bridge(topics) -> Iterator[Bridge]:
    publish(topics, [NORTH, NORTH.model_copy(update={"camera": "*", "version": 1, "zones": ()})])
    with Bridge(topics) as bridge:
        bridge.publish(frame("north", 0, scene(200), width=640, height=360, policy_version=3))
        bridge.wait_until(lambda: "north" in bridge.app.state.live.cameras)
        yield bridge


@pytest.fixture
def page(browser, bridge) -> Iterator[Page]:
    with opened(browser, bridge, place="Policies") as page:
        choose(page)
        yield page


def choose(page: Page) -> None:
    page.get_by_role("link", name="north version 3").click()
    shown(page)


def shown(page: Page, version: int = 3) -> None:
    expect(page.get_by_role("heading", name=f"north version {version}")).to_be_visible()
    expect(page.get_by_alt_text("Newest anonymized picture of north")).to_be_visible()


def board(page: Page) -> Locator:
    return page.get_by_role("group", name="Zones on the picture")


def at(page: Page, x: float, y: float) -> dict[str, float]:
    """The place on the picture, in pixels of the page."""
    board(page).scroll_into_view_if_needed()
    box = board(page).bounding_box()
    assert box is not None
    return {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}


def click(page: Page, x: float, y: float) -> None:
    page.mouse.click(**at(page, x, y))


def save(page: Page, version: int = 4) -> Policy:
    """What is in force after saving."""
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text(f"Version {version} is saved.")).to_be_visible()
    return stored(page)


def stored(page: Page, camera: str = "north") -> Policy:
    body = page.evaluate("camera => fetch(`/v1/policies/${camera}`).then((response) => response.json())", camera)
    return Policy.model_validate(body)


def zone(page: Page, number: int) -> Locator:
    return page.get_by_role("group", name=f"Zone {number}", exact=True)


def corner(page: Page, name: str, number: int) -> Locator:
    return page.get_by_role("button", name=re.compile(f"^{name}, corner {number} of"))


def test_a_policy_is_changed_and_its_new_version_comes_into_force(page, bridge):
    page.get_by_role("checkbox", name="licence plate").check()
    group = page.get_by_role("group", name="licence plate", exact=True)
    group.get_by_label("Mask").select_option("noise")
    group.get_by_label("Grown by").fill("0.4")
    page.get_by_label("Hold a lost mask").fill("2")
    policy = save(page)
    assert policy.targets["licence_plate"].mask == "noise"
    assert policy.targets["licence_plate"].dilation == 0.4
    assert policy.targets["face"].threshold == 0.4  # not shown, and kept
    assert policy.hold == 2
    assert (policy.version, policy.zones) == (4, NORTH.zones)
    expect(page.get_by_role("link", name="north version 4")).to_be_visible()
    bridge.publish(frame("north", 1, scene(90), width=640, height=360, policy_version=4))
    expect(page.get_by_text("Version 4 is in force: north's newest frame was masked by it.")).to_be_visible()


def test_a_zone_is_drawn_with_the_mouse(page):
    page.get_by_role("button", name="Draw a zone").click()
    for x, y in ((0.6, 0.5), (0.9, 0.5), (0.75, 0.9)):
        click(page, x, y)
    click(page, 0.6, 0.5)  # the first one again
    name = zone(page, 2).get_by_label("Name")
    expect(name).to_be_focused()
    name.fill("doorway")
    zone(page, 2).get_by_label("Rule").select_option("never_mask")
    zone(page, 2).get_by_role("checkbox", name="face").check()
    drawn = save(page).zones[1]
    assert (drawn.name, drawn.rule, drawn.spares) == ("doorway", "never_mask", {"motion", "face"})
    expected = [(0.6, 0.5), (0.9, 0.5), (0.75, 0.9)]
    assert [pytest.approx(corner, abs=0.005) for corner in expected] == list(drawn.polygon)


def test_corners_are_dragged_added_and_removed_with_the_mouse(page):
    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        page.mouse.move(**at(page, *start))
        page.mouse.down()
        page.mouse.move(**at(page, *end), steps=4)
        page.mouse.up()

    drag((0.4, 0.4), (0.5, 0.6))
    expect(corner(page, "windows", 3)).to_be_focused()
    drag((0.25, 0.1), (0.25, 0.02))  # the middle of the first edge becomes a corner
    polygon = [(0.1, 0.1), (0.25, 0.02), (0.4, 0.1), (0.5, 0.6), (0.1, 0.4)]
    assert [pytest.approx(corner, abs=0.005) for corner in polygon] == list(save(page).zones[0].polygon)


def test_a_zone_is_drawn_with_the_keyboard_alone(page):
    add = page.get_by_role("button", name="Add a rectangle")
    add.focus()
    page.keyboard.press("Enter")
    expect(corner(page, "zone 2", 1)).to_be_focused()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.press("Tab")
    expect(corner(page, "zone 2", 2)).to_be_focused()
    page.keyboard.press("Delete")
    expect(page.get_by_role("status").filter(has_text="Corner 2 is removed.")).to_be_visible()
    page.keyboard.press("Insert")
    expect(corner(page, "zone 2", 3)).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.get_by_role("button", name="Save").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Version 4 is saved.")).to_be_visible()
    polygon = [(0.34, 0.39), (0.6, 0.6), (0.5, 0.61), (0.4, 0.6)]
    assert [pytest.approx(corner) for corner in polygon] == list(stored(page).zones[1].polygon)


def test_the_last_three_corners_stay_and_escape_ends_drawing(page):
    for _ in range(2):
        corner(page, "windows", 1).focus()
        page.keyboard.press("Delete")
    expect(page.get_by_text("A zone wants three corners at least.")).to_be_visible()
    expect(corner(page, "windows", 3)).to_be_visible()
    page.get_by_role("button", name="Draw a zone").click()
    click(page, 0.6, 0.6)
    page.get_by_role("button", name="Stop drawing").focus()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Draw a zone")).to_be_visible()
    expect(zone(page, 2)).to_have_count(0)


def test_a_zone_that_crosses_itself_is_said_so_and_not_saved(page):
    corner(page, "windows", 1).focus()
    for _ in range(8):
        page.keyboard.press("Shift+ArrowRight")  # from 0.1 to 0.5: past the edge between corners 2 and 3
    expect(zone(page, 1).get_by_role("alert")).to_contain_text("crosses itself")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Not saved: zone 1 is not right yet.")).to_be_visible()
    expect(zone(page, 1).get_by_label("Name")).to_be_focused()
    assert stored(page).version == 3
    corner(page, "windows", 1).focus()
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    expect(zone(page, 1).get_by_role("alert")).to_have_count(0)
    save(page)


def test_zones_are_removed(page):
    page.get_by_role("button", name="Remove windows").click()
    expect(page.get_by_role("button", name="Draw a zone")).to_be_focused()
    assert save(page).zones == ()


def test_what_the_api_refuses_is_shown_at_its_field(page):
    controller = page.get_by_label("Controller")
    dilation = page.get_by_role("group", name="face", exact=True).get_by_label("Grown by")
    controller.fill("")
    dilation.fill("7")
    page.get_by_role("button", name="Save").click()
    for field in (controller, dilation):
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_accessible_description(re.compile("."))
    expect(dilation).to_be_focused()  # the first of them
    expect(page.get_by_text("Not saved.")).to_be_visible()
    controller.fill("City of Delft")
    dilation.fill("0.3")
    save(page)
    expect(controller).not_to_have_attribute("aria-invalid", "true")


def test_somebody_elses_change_is_not_overwritten(browser, bridge, page):
    with opened(browser, bridge, place="Policies") as other:
        choose(other)
        other.get_by_label("Purpose").fill("Crowd safety")
        save(other)
    page.get_by_label("Purpose").fill("Mine")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Somebody else has changed this policy in the meantime.")).to_be_visible()
    page.get_by_role("button", name="Load their version").click()
    shown(page, 4)
    expect(page.get_by_label("Purpose")).to_have_value("Crowd safety")


def test_without_the_right_to_write_it_is_read_only(browser, bridge):
    with opened(browser, bridge, Scope.POLICIES_READ, Scope.CAMERAS_READ, place="Policies") as page:
        choose(page)
        expect(page.get_by_text("Changing it wants the scope policies:write.")).to_be_visible()
        expect(page.get_by_role("button", name="Save")).to_have_count(0)
        expect(page.get_by_role("button", name="Draw a zone")).to_have_count(0)
        expect(page.get_by_label("Controller")).to_be_disabled()
        expect(page.get_by_role("checkbox", name="face")).to_be_disabled()
        assert faults(page) == []


def test_without_cameras_zones_are_drawn_on_a_blank_picture(browser, bridge):
    with opened(browser, bridge, Scope.POLICIES_READ, Scope.POLICIES_WRITE, place="Policies") as page:
        page.get_by_role("link", name="north version 3").click()
        expect(page.get_by_role("heading", name="north version 3")).to_be_visible()
        expect(page.get_by_text("zones are drawn on a blank picture")).to_be_visible()
        page.get_by_role("button", name="Add a rectangle").click()
        assert len(save(page).zones) == 2


def test_what_is_unwise_is_said(page):
    page.get_by_role("group", name="face", exact=True).get_by_label("Mask").select_option("blur")
    save(page)
    expect(page.get_by_role("list", name="Allowed, and yet unwise")).to_contain_text("a blur can be undone")


def test_a_pattern_is_shown_on_any_of_its_cameras(page):
    page.get_by_role("link", name="* version 1").click()
    expect(page.get_by_role("heading", name="* version 1")).to_be_visible()
    expect(page.get_by_label("Drawn on the picture of")).to_have_value("north")


@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_and_everything_has_a_name(browser, bridge, width):
    with opened(browser, bridge, place="Policies", width=width) as page:
        choose(page)
        assert faults(page) == []
