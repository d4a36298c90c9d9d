"""``sfumato mask``: folders, names, the report, exit statuses, and what is left after an interruption."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from sfumato.agents import rules
from sfumato.agents.cli import main
from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import images
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.report import Report
from tests.films import PLANTED, scene, write

POLICY = """
[[policy]]
camera = "archive"
version = 7
controller = "City of Delft"
purpose = "Publication"
lawful_basis = "public_task"
dpia = "DPIA-1"
retention_hours = 24
targets.face = { mask = "solid" }
zones = [{ name = "window", polygon = [[0.0, 0.0], [0.25, 0.0], [0.25, 0.25], [0.0, 0.25]] }]
"""


@pytest.fixture(autouse=True)
def _weights() -> None:
    fetch(WEIGHTS["centerface"], load().weights_dir)


def sfumato(*arguments: str | Path, targets: str = "face") -> Result:
    chosen = [] if "--policy" in arguments else ["--targets", targets]
    return CliRunner().invoke(main, ["mask", *map(str, arguments), *chosen])


def report(out: Path) -> Report:
    return Report.model_validate_json((out / "report.json").read_text())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def face(pictures: list[bytes]) -> np.ndarray:
    return images.decode(pictures[0], "image/jpeg", max_pixels=10**6)


def save(path: Path, image: np.ndarray, **keys: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[:, :, ::-1]).save(path, **keys)  # type: ignore[arg-type]
    return path


def test_a_folder_keeps_its_structure_and_its_report_reconciles(tmp_path, pictures):
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "a.jpg", face(pictures))
    save(source / "deep" / "er" / "B.PNG", face(pictures))
    save(source / "deep" / "c.webp", face(pictures))
    write(source / "deep" / "d.mp4", [scene(n) for n in range(8)])
    (source / "notes.txt").write_text("no picture")
    (source / ".hidden.jpg").write_bytes(b"x")
    (source / "deep" / "loop").symlink_to(source)
    originals = {path: digest(path) for path in source.rglob("*.*") if path.is_file()}
    result = sfumato(source, "--out", out)
    assert result.exit_code == 0, result.output
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {"a.jpg", "deep/er/B.PNG", "deep/c.webp", "deep/d.mp4", "report.json"}
    assert {path: digest(path) for path in originals} == originals
    told = report(out)
    assert json.loads(result.stdout.splitlines()[-1]) == {"files": 4, "masked": 4, "report": str(out / "report.json")}
    assert {Path(name).name for name in told.skipped} == {"notes.txt", ".hidden.jpg"}
    assert "notes.txt: skipped" in result.stderr
    for file in told.files:
        assert file.account is not None
        assert file.output is not None
        assert file.input_sha256 == digest(Path(file.input))
        assert file.output_sha256 == digest(Path(file.output))
        assert file.output_bytes == Path(file.output).stat().st_size
        assert file.account.frames == (8 if file.kind == "film" else 1) == file.account.masked
        if file.kind == "picture":
            assert file.account.boxes == {"face": 1}
    assert [detector.name for detector in told.detectors] == ["centerface"]
    assert told.policy is None
    assert list(told.targets) == ["face"]


def test_what_is_masked_is_gone(tmp_path, pictures):
    source = save(tmp_path / "a.png", face(pictures))
    sfumato(source, "--out", tmp_path / "out", "--mask", "solid")
    with Image.open(tmp_path / "out" / "a.png") as masked:
        middle = np.asarray(masked)[48:76, 68:108]
    assert np.all(middle == images.GREY)
    assert np.ptp(face(pictures)[48:76, 68:108]) > 100


def test_a_policy_of_a_file_is_followed_and_named(tmp_path, pictures):
    (tmp_path / "policy.toml").write_text(POLICY)
    source = save(tmp_path / "a.png", face(pictures))
    result = sfumato(source, "--out", tmp_path / "out", "--policy", tmp_path / "policy.toml")
    assert result.exit_code == 0, result.output
    told = report(tmp_path / "out")
    assert told.policy is not None
    assert (told.policy.camera, told.policy.version) == ("archive", 7)
    assert told.policy.sha256 == digest(tmp_path / "policy.toml")
    assert told.zones == 1
    with Image.open(tmp_path / "out" / "a.png") as masked:
        assert np.all(np.asarray(masked)[:36, :44] == images.GREY)


def test_unreadable_files_are_named_while_the_others_are_done(tmp_path, pictures):
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "a.jpg", face(pictures))
    (source / "broken.jpg").write_bytes(pictures[0][:-400])
    (source / "broken.mkv").write_bytes(b"nothing of a film")
    (source / "z.gif").write_bytes(b"GIF89a")
    result = sfumato(source, source / "z.gif", tmp_path / "missing.png", "--out", out)
    assert result.exit_code == 1
    for line in ("broken.jpg: ", "broken.mkv: not a film", "z.gif: not one of", "missing.png: does not exist"):
        assert line in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "report.json"]
    failed = [file for file in report(out).files if file.error]
    assert len(failed) == 4
    assert all(file.output is None and file.account is None for file in failed)


def test_what_is_there_is_not_overwritten(tmp_path, pictures):
    source, out = save(tmp_path / "a.jpg", face(pictures)), tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").write_text("mine")
    refused = sfumato(source, "--out", out)
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert (out / "a.jpg").read_text() == "mine"
    again = sfumato(source, "--out", out)
    assert "report.json exists; --report FILE writes another" in again.stderr
    assert sfumato(source, "--out", out, "--force").exit_code == 0
    assert (out / "a.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_input_is_never_overwritten(tmp_path, pictures, force):
    source = save(tmp_path / "in" / "a.jpg", face(pictures))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").symlink_to(source)
    before = digest(source)
    for out in (source.parent, tmp_path / "out"):
        result = sfumato(source, "--out", out, *force)
        assert result.exit_code == 1
        assert "is an input" in result.stderr
        assert digest(source) == before


def test_two_files_of_one_name_are_refused(tmp_path, pictures):
    one, two = (save(tmp_path / name / "a.jpg", face(pictures)) for name in ("x", "y"))
    result = sfumato(one, two, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "would both become" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_folder_inside_the_input_is_not_read(tmp_path, pictures):
    save(tmp_path / "a.jpg", face(pictures))
    assert sfumato(tmp_path, "--out", tmp_path / "masked").exit_code == 0
    again = sfumato(tmp_path, "--out", tmp_path / "masked", "--force")
    assert again.exit_code == 0
    assert [Path(file.input).name for file in report(tmp_path / "masked").files] == ["a.jpg"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--targets", "faces"], "--targets: one or more of face, licence_plate"),
        (["--targets", "vehicle"], "targets.vehicle: no detector here looks for it"),
        (["--targets", "face", "--mask", "fog"], "--mask: one of"),
        (["--targets", "face", "--policy", "POLICY"], "leave out --targets"),
        (["--keep-metadata", "make", "--policy", "POLICY"], "leave out --targets, --mask and --keep-metadata"),
        (["--targets", "face", "--keep-metadata", "gps"], "--keep-metadata: fields of make, model"),
        (["--targets", "face", "--keep-metadata", "make=coarsen"], "cannot be coarsened"),
        (["--targets", "face", "--keep-metadata", "serial"], "recipient: missing"),
        (["--targets", "face", "--recipient", "press"], "--recipient: goes with --keep-metadata"),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, said):
    (tmp_path / "policy.toml").write_text(POLICY)
    given = [argument.replace("POLICY", str(tmp_path / "policy.toml")) for argument in arguments]
    result = CliRunner().invoke(main, ["mask", str(tmp_path), "--out", str(tmp_path / "out"), *given])
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("valid_until = 2020-01-01T00:00:00Z", "valid_until: has passed"),
        (
            '[[policy.schedules]]\nname = "night"\nfull_mask = true\n'
            'daily = { begins = "22:00", ends = "06:00", time_zone = "Europe/Amsterdam" }',
            "schedules: a file has no time of day",
        ),
        ("targets.faces = {}", "faces"),
    ],
)
def test_a_policy_that_does_not_hold_is_refused(tmp_path, line, said):
    (tmp_path / "policy.toml").write_text(POLICY + line + "\n")
    result = sfumato(tmp_path, "--out", tmp_path / "out", "--policy", tmp_path / "policy.toml")
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("policy", [True, False])
def test_the_sites_floor_holds_for_files_too(tmp_path, monkeypatch, policy):
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "floor.toml").write_text('targets = ["face", "licence_plate"]\n')
    monkeypatch.setenv("SFUMATO_POLICY_FLOOR", str(tmp_path / "floor.toml"))
    chosen = ["--policy", tmp_path / "policy.toml"] if policy else []
    result = sfumato(tmp_path, "--out", tmp_path / "out", *chosen)
    assert result.exit_code == 1
    assert "licence_plate" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_absent_weight_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SFUMATO_WEIGHTS_DIR", str(tmp_path / "empty"))
    result = sfumato(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "run `sfumato weights`" in result.stderr


def test_by_default_faces_and_plates_are_masked():
    policy = rules.chosen(load(), None, None, None).policy
    assert set(policy.targets) == {"face", "licence_plate"}


def test_a_film_cut_short_is_written_and_named(tmp_path):
    source = write(tmp_path / "a.mkv", [scene(n) for n in range(60)])
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
    result = sfumato(source, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "cut short" in result.stderr
    (file,) = report(tmp_path / "out").files
    assert file.cut_short
    with av.open(str(tmp_path / "out" / "a.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) == file.account.masked


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
def test_metadata_of_pictures_is_gone(tmp_path, pictures, ending):
    exif = Image.Exif()
    exif[0x010E] = exif[0x8298] = PLANTED
    exif.get_ifd(0x8825)[1] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    keys = {"exif": exif.tobytes(), "icc_profile": profile}
    if ending == ".png":
        info = PngInfo()
        info.add_text("Author", PLANTED)
        keys["pnginfo"] = info
    else:
        keys["xmp"] = f"<x>{PLANTED}</x>".encode()
    source = save(tmp_path / f"a{ending}", face(pictures), **keys)
    assert PLANTED.encode() in source.read_bytes()
    sfumato(source, "--out", tmp_path / "out")
    target = tmp_path / "out" / source.name
    assert PLANTED.encode() not in target.read_bytes()
    with Image.open(target) as masked, Image.open(source) as before:
        assert masked.format == before.format
        assert not masked.getexif()
        assert not set(masked.info) & {"exif", "xmp", "icc_profile", "comment", "Author"}


def test_a_turned_picture_comes_out_upright(tmp_path, pictures):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    lying = np.rot90(face(pictures))
    save(tmp_path / "a.jpg", lying, exif=exif.tobytes(), quality=95)
    sfumato(tmp_path / "a.jpg", "--out", tmp_path / "out")
    (file,) = report(tmp_path / "out").files
    assert (file.width, file.height) == (176, 144)
    assert file.account.boxes == {"face": 1}
    with Image.open(tmp_path / "out" / "a.jpg") as masked:
        assert masked.size == (176, 144)
        assert masked.getexif().get(0x0112) is None


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "RGBA", "LA", "1"])
def test_every_kind_of_pixel_is_shown_as_it_was(tmp_path, pictures, mode):
    rgb = Image.fromarray(face(pictures)[:, :, ::-1])
    if mode == "I;16":
        made = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    else:
        made = rgb.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    made.save(path)
    assert sfumato(path, "--out", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / path.name) as masked:
        corner = np.asarray(masked.convert("L"))[:30, :30].astype(int)
    expected = np.asarray((rgb if mode == "I;16" else made).convert("RGB").convert("L"))[:30, :30]
    assert abs(corner - expected).mean() < 4


def test_what_transparency_hides_is_not_kept(tmp_path):
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[16:48, 16:48] = (200, 0, 0, 0)  # a red square that nobody sees
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sfumato(tmp_path / "a.png", "--out", tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.png") as masked:
        assert masked.mode == "RGB"
        assert np.all(np.asarray(masked) == 255)


def test_colours_are_brought_to_srgb(tmp_path):
    """By a profile whose red is sRGB's blue."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), (200, 10, 20)).save(path, icc_profile=swapped)
    sfumato(path, "--out", tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.png") as masked:
        assert np.abs(np.asarray(masked)[5, 5].astype(int) - (20, 10, 200)).max() <= 3


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_animated_pictures_are_refused(tmp_path, ending):
    first, *others = (Image.fromarray(scene(n)) for n in range(3))
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=others)
    result = sfumato(tmp_path / f"a.{ending}", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "is animated" in result.stderr


def test_too_large_a_picture_is_refused(tmp_path, monkeypatch, pictures):
    monkeypatch.setenv("SFUMATO_MAX_PIXELS", "1000")
    result = sfumato(save(tmp_path / "a.jpg", face(pictures)), "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "more than 1000 pixels" in result.stderr


def running(tmp_path: Path) -> tuple[subprocess.Popen[str], Path, Path]:
    """A process that has begun to write a film."""
    source, out = write(tmp_path / "a.mp4", [scene(n) for n in range(1500)], options={"crf": "35"}), tmp_path / "out"
    command = [sys.executable, "-m", "sfumato.agents.cli", "mask", source, "--out", out, "--targets", "face"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    part = out / f".sfumato-{process.pid}.part"
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)  # a file that appears is no event
    return process, out, part


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_half_file(tmp_path, number):
    process, out, _ = running(tmp_path)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; 1 files were not masked" in told
    assert [path.name for path in out.iterdir()] == ["report.json"]
    assert report(out).interrupted


def test_a_killed_run_leaves_nothing_under_the_files_name(tmp_path):
    process, out, part = running(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert [path for path in out.iterdir() if path != part] == []


def test_nothing_is_drawn_where_nobody_looks(tmp_path, pictures):
    result = sfumato(save(tmp_path / "a.jpg", face(pictures)), "--out", tmp_path / "out")
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1


def test_multi_picture_jpegs_lose_all_but_the_first(tmp_path, pictures):
    """As phones write them: a second picture, or a gain map, behind the first."""
    first = Image.fromarray(face(pictures)[:, :, ::-1])
    content = io.BytesIO()
    first.save(content, "MPO", save_all=True, append_images=[Image.new("RGB", (176, 144), "red")])
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    assert sfumato(tmp_path / "a.jpg", "--out", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / "a.jpg") as masked:
        assert masked.format == "JPEG"
        assert getattr(masked, "n_frames", 1) == 1
