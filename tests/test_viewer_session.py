"""Signing in and out in a real Chromium, and what a key's scopes show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from sfumato.agents.access.keys import PREFIX
from sfumato.schemas.scope import Scope
from tests.calling import secret
from tests.test_bridge import Bridge
from tests.viewing import chromium, faults, opened

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def bridge(topics) -> Iterator[Bridge]:
    with Bridge(topics) as bridge:
        yield bridge


@pytest.fixture
def page(browser, bridge) -> Iterator[Page]:
    """Nobody is signed in."""
    context = browser.new_context(viewport={"width": 375, "height": 700})
    page = context.new_page()
    page.goto(f"http://{bridge.address}/")
    expect(page.get_by_label("API key")).to_be_focused()
    yield page
    context.close()


def test_signs_in_and_out_with_the_keyboard_alone(page, bridge):
    page.keyboard.type(secret(bridge.settings))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Live")).to_be_focused()
    assert page.evaluate("document.cookie") == ""  # no script can read the session
    page.reload()
    expect(page.get_by_role("heading", name="No camera yet")).to_be_visible()
    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("API key")).to_be_focused()
    expect(page.get_by_role("navigation", name="Places")).to_be_hidden()
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.get_by_role("heading", name="Live")).to_be_hidden()


def test_a_wrong_key_is_said_so_and_not_kept(page):
    page.get_by_label("API key").fill(f"{PREFIX}wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("This key is not valid: mistyped, expired or revoked.")
    expect(page.get_by_label("API key")).to_have_value("")
    expect(page.get_by_label("API key")).to_be_focused()
    assert faults(page) == []


def test_a_key_in_the_address_is_taken_and_taken_out_of_it(page, bridge):
    key, addresses = secret(bridge.settings), []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(f"http://{bridge.address}/#key={key}")
    expect(page.get_by_role("heading", name="No camera yet")).to_be_visible()
    assert page.url == f"http://{bridge.address}/"
    page.goto("about:blank")
    page.go_back()
    assert key not in page.url
    assert not [address for address in addresses if key in address]


@pytest.mark.parametrize(
    ("scopes", "links"),
    [
        ([Scope.CAMERAS_READ], ["Live"]),
        ([Scope.JOBS_READ], ["Jobs"]),
        ([Scope.POLICIES_READ, Scope.CAMERAS_READ], ["Live", "Policies"]),
        ([Scope.USAGE_READ], []),
    ],
)
def test_what_the_scopes_do_not_allow_is_not_shown(browser, bridge, scopes, links):
    with opened(browser, bridge, *scopes) as page:
        places = page.get_by_role("navigation", name="Places").get_by_role("link")
        expect(places).to_have_text(links) if links else expect(places).to_have_count(0)
        expect(page.get_by_role("heading", level=2, name=links[0] if links else "Nothing to show")).to_be_visible()
        for place in {"Live", "Jobs", "Policies"} - set(links):
            page.goto(f"http://{bridge.address}/#{place.lower()}")
            expect(page.get_by_role("heading", level=2, name=place, exact=True)).to_be_hidden()


def test_when_the_key_is_revoked_the_page_asks_again(browser, bridge):
    with opened(browser, bridge, Scope.CAMERAS_READ) as page:
        expect(page.get_by_role("heading", name="No camera yet")).to_be_visible()
        id = page.get_by_text("key:").text_content().partition(":")[2]
        assert bridge.app.state.keys.revoke(id)
        expect(page.get_by_text("Your session has ended. Sign in again.")).to_be_visible()
        expect(page.get_by_label("API key")).to_be_focused()
        expect(page.get_by_role("list", name="Cameras")).to_be_hidden()
