"""What results of jobs say of themselves: the metadata that the policy keeps, and signed credentials; and analyses."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from sfumato.agents.fetch import fetch_weights
from sfumato.agents.pseudonyms import Pseudonyms
from sfumato.agents.settings import load
from sfumato.models import images, recogniser
from sfumato.models.detectors import make
from sfumato.schemas.credential import LABEL, Statement
from sfumato.schemas.job import Job, JobState, Result
from sfumato.schemas.metadata import MetadataRecord
from tests import films, tagging
from tests.answering import Server, plain
from tests.films import PLANTED, scene
from tests.jobbing import Workshop, workshop
from tests.tagging import SECRETS, tagged
from tests.test_credentials import reader
from tests.test_metadata import SAID, probed

KEPT = {
    "keep": {"make": "exact", "serial": "pseudonym", "captured_at": "coarsen", "coordinates": "coarsen"},
    "recipient": "press",
}
MUXED = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
"""Tags that FFmpeg makes by itself."""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path, outbound_allow=["127.0.0.0/8"]) as made:
        yield made


def only(shop: Workshop, job: Job) -> Result:
    done = shop.jobs.get(job.id)
    assert done.state is JobState.SUCCEEDED, done
    result = done.files[0].result
    assert result is not None
    return result


def stated(content_type: str, payload: bytes) -> Statement:
    """What a valid manifest says."""
    read = reader(content_type, payload)
    assert read.get_validation_state() == "Valid"
    manifest = read.get_active_manifest()
    assert manifest is not None
    return Statement.model_validate(next(each["data"] for each in manifest["assertions"] if each["label"] == LABEL))


def film(folder: Path, ending: str, count: int) -> Path:
    """With everything that a film can say of itself."""
    bare = films.write(folder / f"bare{ending}", (scene(n) for n in range(count)), options={"g": "20"})
    tags = [part for name, value in SAID.items() for part in ("-metadata", f"{name}={value}")]
    flags = ["-movflags", "use_metadata_tags"] if ending == ".mp4" else []
    source = folder / f"said{ending}"
    command = ["ffmpeg", "-loglevel", "error", "-i", str(bare), "-c", "copy", *tags, *flags, str(source)]
    subprocess.run(command, check=True, timeout=60)
    return source


def test_a_picture_keeps_what_its_policy_says_and_is_signed(shop: Workshop, tmp_path: Path) -> None:
    source = tagged(tmp_path / "a.jpg")
    rules = films.policy(metadata=KEPT)
    signed, bare, silent = (
        shop.create(source, policy=rules),
        shop.create(source, policy=rules, options={"credentials": False}),
        shop.create(source),
    )
    shop.work()
    result = only(shop, signed)
    assert (result.credentials, only(shop, bare).credentials) == (True, False)
    assert result.metadata.exact == ("make",)
    assert result.metadata.pseudonymized == ("serial",)
    assert set(result.metadata.coarsened) == {"captured_at", "coordinates"}
    assert {"model", "creator", "thumbnail"} <= set(result.metadata.removed)
    told = stated("image/jpeg", shop.fetch(signed))
    assert (told.policy, told.version, told.frames) == (rules.camera, rules.version, 1)
    assert told.metadata == {
        "make": "exact", "serial": "pseudonym", "captured_at": "coarsen", "coordinates": "coarsen",
    }  # fmt: skip
    (tmp_path / "out.jpg").write_bytes(shop.fetch(bare))
    seen = tagging.read(tmp_path / "out.jpg")
    assert seen["IFD0:Make"] == SECRETS["Make"]
    assert {name for name in seen if not name.startswith("JFIF:")} == {
        "IFD0:Make", "ExifIFD:SerialNumber", "ExifIFD:DateTimeOriginal", "ExifIFD:OffsetTimeOriginal",
        "ExifIFD:ExifVersion", "GPS:GPSVersionID", *(f"GPS:GPS{name}{ref}" for name in ("Latitude", "Longitude")
        for ref in ("", "Ref")),
    }  # fmt: skip
    (pseudonym,) = {value for name, value in seen.items() if name.endswith(":SerialNumber")}
    period = next(iter((shop.settings.state_dir / "pseudonyms").glob("*.key"))).stem
    assert Pseudonyms(shop.settings).reveal(pseudonym, "press", period) == ("serial", SECRETS["SerialNumber"])
    for job in (signed, bare):
        written = shop.fetch(job)
        assert [name for name, value in SECRETS.items() if name != "Make" and value.encode() in written] == []
    assert only(shop, silent).metadata.exact == ()
    assert stated("image/jpeg", shop.fetch(silent)).policy is None  # nobody named one
    assert SECRETS["Make"].encode() not in shop.fetch(silent)


@pytest.mark.parametrize("seconds", [60.0, 1.5], ids=["whole", "parts"])
def test_a_film_keeps_what_its_policy_says_and_is_signed(tmp_path: Path, seconds: float) -> None:
    source = film(tmp_path, ".mp4", 80)
    with workshop(tmp_path, archive_part_seconds=seconds) as shop:
        job = shop.create(source, policy=films.policy(metadata=KEPT))
        archivist = shop.archivist()
        stages = []
        do = archivist._masking._do
        archivist._masking._do = lambda claim, hold: (stages.append(claim.stage), do(claim, hold))[1]  # type: ignore[method-assign]
        while archivist.step():
            pass
        archivist.usage.close()
        result, payload = only(shop, job), shop.fetch(job)
    assert ("join" in stages) == (seconds < 60)
    assert result.credentials
    assert (result.metadata.exact, result.metadata.pseudonymized) == (("make",), ("serial",))
    told = stated("video/mp4", payload)
    assert (told.frames, told.masked["face"].boxes) == (80, result.account.boxes["face"])
    target = tmp_path / "out.mp4"
    target.write_bytes(payload)
    assert films.times(target) == films.times(source)
    seen = probed(target)
    assert set(seen) - MUXED == {
        "com.apple.quicktime.make", "com.sfumato.serial", "com.apple.quicktime.creationdate",
        "com.apple.quicktime.location.iso6709", "creation_time",
    }  # fmt: skip
    assert seen["com.apple.quicktime.make"] == "Cameramaker-51a"
    assert seen["com.sfumato.serial"].startswith("serial.")
    for value in (PLANTED, "Modelname", "SN-0053", "north-gate", "Delft", "52.0116", "31:05"):
        assert value.encode() not in payload, value
    assert result.sha256 not in payload.decode("latin-1")


def test_a_format_without_a_place_for_credentials_says_so(shop: Workshop, tmp_path: Path) -> None:
    job = shop.create(film(tmp_path, ".webm", 20), policy=films.policy(metadata=KEPT))
    shop.work()
    result = only(shop, job)
    assert result.credentials is False
    (tmp_path / "out.webm").write_bytes(shop.fetch(job))
    seen = probed(tmp_path / "out.webm")
    assert seen["make"] == "Cameramaker-51a"
    assert not {"model", "title", "unheard_of"} & set(seen)


def test_what_cannot_be_signed_is_not_published(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again as often as anything, and then said; without credentials it is masked."""
    settings = shop.settings
    shop.settings = settings.model_copy(update={"archive_attempts": 1})
    shop.__post_init__()
    payload = images.encode(scene(0), 90)
    job = shop.create(payload)
    monkeypatch.setattr("c2pa.Reader.get_validation_state", lambda _: "Invalid")
    shop.work()
    file = shop.jobs.get(job.id).files[0]
    assert (file.state, file.result, shop.names()) == (JobState.FAILED, None, [])
    assert "credentials" in (file.error or "")
    assert "leave credentials out" in (file.remedy or "")
    other = shop.create(payload, options={"credentials": False})
    shop.work()
    assert only(shop, other).metadata == MetadataRecord()


def test_a_url_is_fetched_over_https_and_masked(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        Server(authority.issue_cert("127.0.0.1")) as server,
        workshop(tmp_path, outbound_allow=["127.0.0.0/8"], outbound_ca=tmp_path / "ca.pem") as shop,
    ):
        server.answers["/media/a.jpg?token=secret"] = plain(images.encode(scene(0), 95))
        url = f"https://127.0.0.1:{server.port}/media/a.jpg?token=secret"
        job = shop.create(files=[{"url": url}])
        shop.work()
        masked = images.decode(shop.fetch(job), "image/jpeg", max_pixels=10**6)
        assert (only(shop, job).account.boxes, films.red(masked).any()) == ({"face": 1}, False)
        assert [path for path, _ in server.requests] == ["/media/a.jpg?token=secret"]
        shop.sweeper.sweep()
        assert shop.names("uploads") == []
        assert "token" not in shop.jobs.get(job.id).model_dump_json()


STEPS = ["anonymize", "analyze", "publish"]


@pytest.fixture(scope="module")
def portrait(pictures: list[bytes]) -> bytes:
    """Large enough for a recogniser."""
    list(fetch_weights(load(), *recogniser.WEIGHTS))
    return images.encode(images.resize(images.decode(pictures[0], "image/jpeg", max_pixels=10**6), 704, 576), 95)


def analysed(shop: Workshop, payload: bytes, *finding: Any) -> Result:
    job = shop.create(payload, steps=STEPS)
    shop.work(*finding)
    return only(shop, job)


def test_a_masked_face_is_measured_and_one_that_was_missed_is_told(shop: Workshop, portrait: bytes) -> None:
    settings = shop.settings
    good = analysed(shop, portrait, films.Ensemble([make("centerface", settings.detector_options())]))
    bad = analysed(shop, portrait)  # it looks for red squares: the face stays
    for result, recognised in ((good, False), (bad, True)):
        assert result.no_residual is None
        assert result.analysis is not None
        face = result.analysis.faces[0]
        assert face.measures.usable_by_recogniser
        assert face.residual is not None
        assert face.residual.before < 0.3
        assert face.residual.recognised is recognised
    assert json.loads(good.model_dump_json())["analysis"]["recogniser"]["name"] == "dlib"


def test_no_template_leaves_memory(
    shop: Workshop, portrait: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the recogniser made is looked for in the result, the log and all files, the database among them."""
    templates: list[Any] = []
    template = recogniser.Recogniser.template

    def watched(self: Any, *arguments: Any) -> Any:
        templates.append(template(self, *arguments))
        return templates[-1]

    monkeypatch.setattr(recogniser.Recogniser, "template", watched)
    caplog.set_level(logging.DEBUG)
    result = analysed(shop, portrait)
    assert len(templates) == 3
    files = b"".join(path.read_bytes() for path in shop.settings.state_dir.rglob("*") if path.is_file())
    seen = result.model_dump_json() + caplog.text + files.decode("latin-1")
    assert result.sha256 in seen
    numbers = {f"{abs(value):.5f}" for made in templates for value in made if abs(value) > 0.02}
    assert len(numbers) > 100
    assert [number for number in numbers if number in seen] == []
    for made in templates:
        assert made.tobytes()[:64] not in files
        assert made.astype(np.float32).tobytes()[:64] not in files


def test_without_the_extra_faces_are_measured_and_the_rest_is_said(
    shop: Workshop, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    result = analysed(shop, portrait)
    assert result.analysis is not None
    assert result.analysis.faces[0].measures.eye_distance > 20
    assert result.analysis.faces[0].residual is None
    assert ".[attack]" in (result.no_residual or "")


def test_a_sample_of_a_film_is_compared_with_what_was_made_of_it(
    shop: Workshop, portrait: bytes, tmp_path: Path
) -> None:
    picture = images.decode(portrait, "image/jpeg", max_pixels=10**6)
    film = films.write(tmp_path / "a.mp4", [picture] * 10, rate=4, time_base=Fraction(1, 4))
    good = analysed(shop, film.read_bytes(), films.Ensemble([make("centerface", shop.settings.detector_options())]))
    bad = analysed(shop, film.read_bytes())  # it looks for red squares: the face stays
    for result, recognised in ((good, 0), (bad, 3)):
        found = result.film_analysis
        assert (result.analysis, result.no_residual) == (None, None)
        assert found is not None
        assert (found.pictures, found.unmatched, found.every) == (3, 0, 1.0)
        assert (found.faces, found.usable, found.measured, found.recognised) == (3, 3, 3, recognised)
        assert found.worst is not None
        assert found.median is not None
        assert found.worst.recognised is bool(recognised)
        assert found.worst.after <= found.median
        assert found.worst_at in (0.0, 1.0, 2.0)


def test_pictures_show_no_motion(shop: Workshop) -> None:
    job = shop.create(images.encode(scene(0), 90), policy=films.policy(targets={"motion": {"mask": "solid"}}))
    shop.work()
    (file,) = shop.jobs.get(job.id).files
    assert file.state is JobState.FAILED
    assert "no motion" in (file.error or "")
    assert shop.names() == []
