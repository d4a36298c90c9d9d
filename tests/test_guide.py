"""The guide to the API, docs/api*.md: its lines are run, as a user would, against a real bridge."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import av
import httpx
import pytest
from clips import clip
from PIL import Image
from stack import Stack
from standardwebhooks import Webhook

from sfumato.agents import suspensions
from sfumato.agents.pseudonyms import Pseudonyms, period_of
from sfumato.agents.settings import PREFIX, load
from sfumato.models import images
from sfumato.schemas.metadata import Metadata, MetadataField, Period
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import AUDIT, SUSPENSIONS
from tests import films, tagging
from tests.calling import app, bearer
from tests.test_access import endpoints
from tests.test_api_audit import event
from tests.test_bridge import Bridge, frame
from tests.test_destinations import Receiver
from tests.test_hls import playing

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("api.md", "api-dam.md", "api-dpo.md", "api-vendor.md", "api-city.md")

embedded = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


def blocks(page: str, kind: str = "sh") -> list[str]:
    """The page's blocks of lines: ``sh`` are run, ``sh elsewhere`` need what a test does not have."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


class Reader:
    """Somebody who reads a page and runs its lines in a folder, each block in the shell of the one before."""

    def __init__(self, bridge: Bridge, folder: Path) -> None:
        self.folder = folder
        self._environment = {"SFUMATO": f"http://{bridge.address}", "ADMIN": bridge.key}

    def run(self, page: str, **variables: str) -> list[str]:
        """What each block prints; a line that fails fails the test."""
        mark = "=== next block ==="
        script = f"\necho; echo '{mark}'\n".join(blocks(page))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**os.environ, **self._environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{page}: {done.stderr}\n{done.stdout}"
        return [each.strip() for each in done.stdout.split(mark)]


@pytest.fixture
def stack(stack: Stack) -> Stack:
    """With webhooks to this machine, and the two detectors that the pages use."""
    changes = {"outbound_allow": ["127.0.0.1"], "outbound_http": True, "detectors": "centerface,clp", "job_resend": 1.0}
    stack.settings = stack.settings.model_copy(update=changes)
    return stack


@pytest.fixture
def bridge(stack: Stack) -> Iterator[Bridge]:
    with Bridge(stack.settings) as bridge:
        bridge.wait_until(lambda: bridge.app.state.standing.ready)
        yield bridge


@pytest.fixture
def reader(bridge: Bridge, pictures: list[bytes], tmp_path: Path) -> Reader:
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / "street.jpg").write_bytes(pictures[0])
    return Reader(bridge, folder)


def documents(printed: str) -> list[dict[str, object]]:
    """The JSON documents in it, one after another."""
    decoder, found, rest = json.JSONDecoder(), [], printed
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


@embedded
def test_the_start(reader: Reader) -> None:
    (printed,) = reader.run("api.md")
    health, who = documents(printed)
    assert health["status"] == "ok"
    assert "keys:write" in who["scopes"]
    assert json.loads((reader.folder / "openapi.json").read_text())["openapi"].startswith("3.1")


@embedded
def test_the_shortest_way_in_the_readme(bridge: Bridge, reader: Reader) -> None:
    (line,) = re.findall(r"^    (curl (?:.*\\\n)*.*)$", (DOCS.parent / "README.md").read_text(), re.MULTILINE)
    line = line.replace("127.0.0.1:8080", bridge.address)
    environment = {**os.environ, "KEY": bridge.key}
    subprocess.run(["bash", "-c", line], cwd=reader.folder, env=environment, check=True, timeout=60)
    with Image.open(reader.folder / "masked.jpg") as shown:
        assert shown.size == (176, 144)


@embedded
def test_a_media_archive(stack: Stack, bridge: Bridge, reader: Reader) -> None:
    folder, receiver = reader.folder, Receiver()
    stack.start("archive")
    tags = ["-SerialNumber=SN-0053", "-DateTimeOriginal=2026:09:12 08:31:05", "-OffsetTimeOriginal=+02:00"]
    tags += ["-GPSLatitude=52.01163", "-GPSLatitudeRef=N", "-GPSLongitude=4.35713", "-GPSLongitudeRef=E"]
    subprocess.run(["exiftool", "-q", "-overwrite_original", *tags, "street.jpg"], cwd=folder, check=True, timeout=60)
    with av.open(str(clip("carphone"))) as container:
        faces = [picture.to_ndarray(format="bgr24") for picture in islice(container.decode(video=0), 25)]
    films.write(folder / "market.mp4", faces, options={"g": "25"})

    printed = reader.run("api-dam.md", HOOK=receiver.url)

    for name in ("masked", "published", "unsigned"):
        with Image.open(folder / f"{name}.jpg") as shown:
            assert shown.size == (176, 144)
    assert any("<outcome>masked</outcome>" in each for each in printed)
    told = tagging.read(folder / "published.jpg")
    assert told["ExifIFD:SerialNumber"].startswith("serial.")
    assert told["ExifIFD:DateTimeOriginal"] == "2026:09:12 00:00:00"
    assert told["GPS:GPSLatitude"] != pytest.approx(52.01163, abs=1e-5)
    signed = [b"org.sfumato.redaction" in (folder / f"{name}.jpg").read_bytes() for name in ("masked", "unsigned")]
    assert signed == [True, False]
    assert any("event: ended" in each for each in printed)
    assert any('"masked":25' in each for each in printed)
    assert len(films.times(folder / "masked.mp4")) == 25
    bridge.wait_until(lambda: len(receiver.got) == 1)
    headers, body = receiver.got[0]
    secret = (folder / "webhook-secret.txt").read_text().strip()
    assert Webhook(secret).verify(body, headers)["type"] == "job.succeeded"
    receiver.close()


@embedded
def test_a_data_protection_officer(stack: Stack, bridge: Bridge, reader: Reader) -> None:
    bridge.publish(frame("market-1", 0))
    bridge.wait_until(lambda: "market-1" in bridge.shown())
    grey = event(1, "market-1", outcome=Outcome.FULLY_MASKED, reason=Reason.NO_POLICY)
    bridge.send(AUDIT, event(0, "market-1").to_message(), grey.to_message(), event(2, "south").to_message())
    bridge.send(SUSPENSIONS, suspensions.suspend("market-1", "leaks", 5).to_message())
    bridge.wait_until(lambda: bridge.get("/v1/cameras/market-1").json()["suspension"] is not None)
    rules = Metadata(keep={"serial": "pseudonym"}, recipient="press office")
    pseudonym = Pseudonyms(stack.settings).pseudonymize(MetadataField.SERIAL, "SN-0053", rules)
    draft, keys = {"name": "old", "purpose": "none", "roles": ["dam"]}, f"http://{bridge.address}/v1/keys"
    old = httpx.post(keys, json=draft, headers=bearer(bridge.key)).raise_for_status().json()

    printed = reader.run(
        "api-dpo.md", PSEUDONYM=pseudonym or "", PERIOD=period_of(datetime.now(UTC), Period.MONTH), OLD=old["id"]
    )

    versions = bridge.get("/v1/policies/market-1/versions").json()["items"]
    assert [(each["version"], each["in_force"]) for each in versions] == [(1, False), (2, True)]
    assert bridge.get("/v1/policies/market-1").json()["retention_hours"] == 12
    found = next(each for each in printed if '"outcome":"fully_masked"' in each)
    assert [each["id"] for each in json.loads(found)["items"]] == [grey.id]
    with (reader.folder / "audit.csv").open() as file:
        assert {row["camera"] for row in csv.DictReader(file)} == {"market-1"}
    assert any('"value":"SN-0053"' in each for each in printed)
    assert bridge.get(f"/v1/keys/{old['id']}").json()["revoked_at"] is not None
    assert documents(printed[-1])[-1]["state"] == "lifted"
    assert any('"usable_by_recogniser"' in each for each in printed)


@embedded
def test_a_vendor(bridge: Bridge, reader: Reader) -> None:
    bridge.publish(frame("south-1", 0))
    with playing(bridge, "north-1"):
        bridge.wait_until(lambda: {"north-1", "south-1"} <= set(bridge.shown()))
        printed = reader.run("api-vendor.md")
    mine = next(each for each in printed if '"fps"' in each)
    assert [camera["id"] for camera in json.loads(mine)["items"]] == ["north-1"]
    shown = images.decode((reader.folder / "north-1.jpg").read_bytes(), "image/jpeg", max_pixels=10**6)
    assert shown.shape == (180, 320, 3)
    assert "404" in printed
    assert any(each.startswith("#EXTM3U") for each in printed)
    assert json.loads(printed[-1])["objects"]


@embedded
def test_a_city(reader: Reader) -> None:
    printed = reader.run("api-city.md")
    assert "sfumato_api_calls_total" in printed[-1]
    names = {key["name"] for each in printed if '"prefix"' in each for key in documents(each)[0]["items"]}  # type: ignore[attr-defined]
    assert {"Traffic department", "Monitoring"} <= names


@pytest.mark.parametrize("page", PAGES)
def test_lines_that_need_more_are_marked_and_are_bash(page: str) -> None:
    text = (DOCS / page).read_text()
    assert set(re.findall(r"^```(.+)$", text, re.MULTILINE)) <= {"sh", "sh elsewhere"}
    for block in blocks(page, "sh elsewhere"):
        subprocess.run(["bash", "-n", "-c", block], check=True, timeout=10)


def test_the_settings_of_the_guide_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    taken = 0
    for block in (block for page in PAGES for block in blocks(page, "sh elsewhere")):
        exports = "\n".join(line for line in block.splitlines() if line.startswith("export "))
        done = subprocess.run(["bash", "-c", f"{exports}\nenv -0"], capture_output=True, text=True, check=True)
        given = dict(each.partition("=")[::2] for each in done.stdout.split("\0") if each.startswith(PREFIX))
        with monkeypatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            load()
        taken += len(given)
    assert taken >= 10


def test_the_table_of_resources_is_the_codes(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `([A-Z, ]+) (/\S*)` \| (.*?) \| .+ \|$", (DOCS / "api.md").read_text(), re.MULTILINE)
    table = {(method, path): scope for methods, path, scope in rows for method in methods.split(", ")}
    with app(tmp_path) as made:
        found = {(method, path.replace(":id}", "}")): scopes for method, path, scopes in endpoints(made)}
    del found["GET", "/"]
    assert set(table) == set(found)
    for place, scopes in found.items():
        stated = "no key" if scopes is None else ", ".join(f"`{scope}`" for scope in sorted(scopes)) or "any"
        assert re.split(" on |;", table[place])[0] == stated, place
