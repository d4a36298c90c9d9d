"""A person at the viewer: a Chromium page that is signed in, and what must hold on every page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from sfumato.models import images
from sfumato.schemas.scope import Scope
from tests.calling import secret
from tests.test_bridge import Bridge

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
REFUSED = "Failed to load resource: "
"""How Chromium notes a request that was refused or lost; it is for the page to say what it means."""


def scene(shade: int) -> bytes:
    """A JPEG of 640x360, from half the shade at the left to all of it at the right."""
    ramp = np.linspace(shade / 2, shade, 640, dtype=np.uint8)[None, :, None]
    return images.encode(np.broadcast_to(ramp, (360, 640, 3)), 80)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, bridge: Bridge, *scopes: Scope, place: str = "", width: int = 1280) -> Iterator[Page]:
    """A page signed in with a key of these scopes (none: all). Errors of its scripts and what its content security
    policy blocked fail the test."""
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            problems.append(message.text) if message.type == "error" and not message.text.startswith(REFUSED) else None
        ),
    )
    page.goto(f"http://{bridge.address}/#key={secret(bridge.settings, *scopes)}")
    page.get_by_role("button", name="Sign out").wait_for()
    if place:
        page.get_by_role("link", name=place).click()
    yield page
    context.close()
    assert problems == []


FAULTS = """() => {
  const seen = (element) => element.checkVisibility({ visibilityProperty: true });
  const faults = [];
  const named = "input, select, textarea, button, a[href], summary, dialog[open], video, img";
  const text = (id) => document.getElementById(id)?.textContent ?? "";
  for (const element of document.querySelectorAll(named)) {
    if (!seen(element) || element.ariaHidden === "true") continue;
    const by = (element.getAttribute("aria-labelledby") ?? "").split(" ").map(text);
    const labels = [...(element.labels ?? [])].map((label) => label.textContent);
    const own = element.matches("button, a, summary") ? element.textContent : element.getAttribute("alt") ?? "";
    const name = [element.ariaLabel ?? "", ...by, ...labels, own].join("").trim();
    if (!name) faults.push(`no name: ${element.outerHTML.slice(0, 120)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => faults.push(`id twice: ${id}`));
  for (const element of document.querySelectorAll("[aria-describedby], [aria-labelledby], label[for]")) {
    const told = ["aria-describedby", "aria-labelledby", "for"].map((name) => element.getAttribute(name) ?? "");
    for (const id of told.join(" ").split(" ")) {
      if (id && !document.getElementById(id)) faults.push(`no element: ${id}`);
    }
  }
  const channels = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, alpha = 1] = channels(getComputedStyle(at).backgroundColor);
      if (alpha > 0.7) return [r, g, b];
    }
    return [20, 22, 26];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, said = walker.currentNode.textContent.trim();
    if (!said || !seen(element) || element.matches("h1, option, noscript, :disabled")) continue;
    const pair = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(1)}: ${said.slice(0, 60)}`);
  }
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) faults.push("scrolls sideways");
  return faults;
}"""


def faults(page: Page) -> list[str]:
    """What makes the page hard to use as it stands: what can be operated has no name, an id that is referred to is
    missing or there twice, text with a contrast under 4.5 (WCAG 2.2, 1.4.3), or it scrolls sideways (1.4.10)."""
    found: list[str] = page.evaluate(FAULTS)
    return found
