"""The dossier's pages: what is put in is shown as it is and never runs; the controller's file; the command."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sfumato.agents.broker import free_port
from sfumato.agents.cli import main
from sfumato.agents.dossier.collect import collect
from sfumato.agents.dossier.controller import ControllerError, read_controller, template
from sfumato.agents.dossier.markup import Lack, Page, plain
from sfumato.agents.dossier.record import record
from sfumato.agents.dossier_commands import _verifiers
from sfumato.agents.ledger import keys
from sfumato.agents.ledger.note import Signer
from sfumato.agents.settings import Settings
from sfumato.schemas.controller import Assessment, Controller, Party, Processor, Recipient, Risk, Transfer
from tests.dossiers import DAY, HOSTILE, listed, made, populate, soon
from tests.viewing import chromium


@pytest.fixture
def running(topics: Settings) -> Settings:
    return populate(topics)


class Text(HTMLParser):
    """The text of each cell, item, paragraph and heading, every tag, and what is no plain attribute."""

    WANTED = ("td", "li", "p", "h3")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag in self.WANTED:
            self.texts.append("")
        self._open = tag in self.WANTED or (self._open and tag == "strong")

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in self.WANTED

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[-1] += data


def everywhere(text: str) -> Page:
    page = Page("Title")
    page.heading(text, 3)
    page.paragraph(text)
    page.items([text, text])
    page.table(["A", "B"], [[text, text], [Lack("one"), text]])
    page.judge(text)
    return page


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")), min_size=1, max_size=60))
def test_any_text_is_shown_as_it_is_wherever_it_stands(text):
    shown = " ".join(text.split())
    found = Text(everywhere(text).html())
    assert found.tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "ul", "li", "strong", "blockquote"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert found.attributes <= {"lang", "charset", "http-equiv", "name", "content"}
    if shown:
        texts = [" ".join(each.split()) for each in found.texts]
        assert texts.count(shown) == 8  # heading, paragraph, items, cells, and the list of judgements
        assert f"To be judged by a person: {shown}" in texts


def test_what_cannot_be_seen_is_shown_as_such():
    assert plain("a\u202eb\u200bc\x00d\ne") == "a\ufffdb\ufffdc\ufffdd e"


@pytest.mark.parametrize("text", ["1. one", "- x", "# x", "+ x", "=== ", "---", "1) x", "> x", "    x", "***", "| a |"])
def test_no_text_begins_a_list_a_heading_or_a_rule(text):
    assert Text(everywhere(text).html()).texts.count(text.strip()) == 8


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_in_a_browser_nothing_runs_and_nothing_is_fetched(running, tmp_path):
    made(collect(running, soon(), DAY), tmp_path)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 1200})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        for name in ("record", "assessment"):
            page.goto((tmp_path / f"{name}.html").as_uri())
            assert page.locator("script, img, iframe, a, link, [onerror], [onclick]").count() == 0
            assert page.get_by_text(HOSTILE, exact=True).count() >= 1
            marked = page.locator("blockquote").first.evaluate("it => getComputedStyle(it).borderLeftWidth")
            assert float(marked.removesuffix("px")) >= 4
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert problems == []
        assert [Path(url).suffix for url in requests] == [".html", ".html"]


def fields(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_the_template_holds_every_key_and_nothing_else(tmp_path):
    assert tomllib.loads(template()) == {}
    filled = re.sub(r"^# (?!What )(.*)$", r"\1", template(), flags=re.MULTILINE)
    path = tmp_path / "controller.toml"
    path.write_text("\n".join(line for line in filled.splitlines() if not line.startswith("# What ")))
    document = tomllib.loads(path.read_text())
    found = read_controller(path)
    assert set(document) == fields(Controller)
    assert set(document["assessment"]) == fields(Assessment)
    for part in ("controller", "representative", "data_protection_officer"):
        assert set(document[part]) == fields(Party)
    for name, model in (("recipients", Recipient), ("transfers", Transfer), ("processors", Processor)):
        assert set(document[name][0]) == fields(model)
    assert set(document["assessment"]["risks"][0]) == fields(Risk)
    assert found.assessment.review_by == date(2028, 1, 31)


def test_a_controllers_file_that_is_wrong_names_the_field(tmp_path):
    path = tmp_path / "controller.toml"
    path.write_text('controler = "x"\n[assessment]\nconclusion = 3\n')
    with pytest.raises(ControllerError, match=r"controller\.toml: assessment\.conclusion: .*; controler: unknown key"):
        read_controller(path)
    path.write_text("= 3")
    with pytest.raises(ControllerError, match="not TOML"):
        read_controller(path)
    path.write_bytes(b'requests = "\xff"')
    with pytest.raises(ControllerError, match="not UTF-8"):
        read_controller(path)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_what_the_controller_says_is_shown_and_none_is_not_missing(running, tmp_path):
    own = Controller(
        controller=Party(name="Province", contact="dpo@city.example"),
        data_protection_officer=Party(name="A. Person"),
        joint_controllers=(),
        processors=(),
        recipients=(Recipient(name="Acme Ltd", receives="masked pictures", keys=("Acme | Traffic",)),),
        transfers=(),
        data_subjects=("passers-by",),
        assessment=Assessment(
            necessity="Counting needs sight.", risks=(Risk(risk="r", likelihood="l", severity="s", measures="m"),)
        ),
    )
    facts = collect(running, soon(), DAY)
    text, annex = made(facts, tmp_path, own)
    missing = listed(text, "What is missing")
    assert "Data protection officer: contact" in missing
    assert not any("transfers" in each or "processors" in each or "joint" in each for each in missing)
    judged = listed(text, "To be judged by a person")
    assert any(each.startswith("Activity 1: the policies name City of Delft") and "Province" in each for each in judged)
    assert "Whose are the keys office? The controller's file names no recipient for them." in judged
    assert "| Acme Ltd |" in text
    assert "Necessity, in the controller's words: Counting needs sight." in annex
    assert "| r | l | s | m |" in annex
    assert record(facts, own).markdown() == text


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_the_command_writes_four_files_or_the_template(topics, tmp_path, monkeypatch):
    monkeypatch.setenv("SFUMATO_BOOTSTRAP_SERVERS", topics.bootstrap_servers)
    monkeypatch.setenv("SFUMATO_TOPIC_PREFIX", topics.topic_prefix)
    monkeypatch.setenv("SFUMATO_STATE_DIR", str(topics.state_dir))
    run = CliRunner().invoke(main, ["dossier", "--out", str(tmp_path / "out"), "--hours", "1"])
    assert run.exit_code == 0, run.output
    written = ["record.md", "record.html", "assessment.md", "assessment.html"]
    assert [Path(line).name for line in run.output.splitlines()] == written
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*written}
    assert CliRunner().invoke(main, ["dossier", "--template"]).output == template()
    assert CliRunner().invoke(main, ["dossier"]).exit_code == 2
    bad = CliRunner().invoke(main, ["dossier", "--out", str(tmp_path), "--key", "nonsense"])
    assert (bad.exit_code, "verifier key" in bad.output) == (1, True)
    monkeypatch.setenv("SFUMATO_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("sfumato.agents.dossier.topics.TIMEOUT", 1.0)
    alone = CliRunner().invoke(main, ["dossier", "--out", str(tmp_path / "none")])
    assert (alone.exit_code, "no broker answers" in alone.output) == (1, True)
    assert not (tmp_path / "none").exists()


def test_the_ledgers_own_key_is_used_where_it_is_and_never_made(tmp_path):
    settings = Settings(state_dir=tmp_path)
    assert _verifiers(settings, ()) == ()
    assert [*tmp_path.iterdir()] == []
    own = keys.load(settings).verifiers
    assert _verifiers(settings, ()) == own
    other = Signer("other.example", Ed25519PrivateKey.generate()).verifier
    assert _verifiers(settings, (str(other),)) == (other,)
