"""cameras.toml and ``--camera name=url``: what is refused, with what words, and never with a password."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest
from click.testing import CliRunner

from sfumato.agents import cameras
from sfumato.agents.cameras import Camera, CameraError, Pace
from sfumato.agents.cli import main
from sfumato.agents.sources import SOURCES, redact


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "cameras.toml"
        path.write_text(text)
        return path

    return write


def test_every_key(written) -> None:
    found = cameras.read_file(
        written("""
[[camera]]
id = "north-1"
url = "rtsp://viewer:s3cret@10.0.0.7:8554/stream?channel=1"
fps = 12.5
long_side = 1280
quality = 70

[[camera]]
id = "clip"
url = "file:///clips/street.mp4"
loop = true
pace = "fast"
fps = 5
remux = false
""")
    )
    assert found == [
        Camera(
            id="north-1",
            url="rtsp://viewer:s3cret@10.0.0.7:8554/stream?channel=1",
            fps=12.5,
            long_side=1280,
            quality=70,
        ),
        Camera(id="clip", url="file:///clips/street.mp4", loop=True, pace=Pace.FAST, fps=5.0, remux=False),
    ]
    assert (found[0].loop, found[0].pace, found[1].quality, found[1].long_side) == (False, Pace.REAL_TIME, 85, None)
    assert found[0].remux


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('url = "rtsp://h/x"', ["id: Field required"]),
        ('id = "a"', ["camera 1 (a)", "url: Field required"]),
        ('id = "North"\nurl = "rtsp://h/x"', ["id: String should match pattern"]),
        ('id = "../a"\nurl = "rtsp://h/x"', ["id: String should match pattern"]),
        ('id = "a"\nurl = "rtsp://h/x"\nfsp = 5', ["camera 1 (a)", "fsp: Extra inputs are not permitted"]),
        ('id = "a"\nurl = "rtsp://h/x"\nfps = 0', ["fps: Input should be greater than 0"]),
        ('id = "a"\nurl = "rtsp://h/x"\nfps = "5"', ["fps: Input should be a valid number"]),
        ('id = "a"\nurl = "rtsp://h/x"\nloop = 1', ["loop: Input should be a valid boolean"]),
        ('id = "a"\nurl = "rtsp://h/x"\nremux = "no"', ["remux: Input should be a valid boolean"]),
        ('id = "a"\nurl = "rtsp://h/x"\npace = "slow"', ["pace: Input should be 'real-time' or 'fast'"]),
        ('id = "a"\nurl = "rtsp://h/x"\nlong_side = 10', ["long_side: "]),
        ('id = "a"\nurl = "rtsp://h/x"\nquality = 101', ["quality: "]),
        ('id = "a"\nurl = "ftp://h/x"', ["url: ", "'ftp' is unknown", *SOURCES]),
        ('id = "a"\nurl = "/dev/video0"', ["url: ", "no scheme", *SOURCES]),
        ('id = "a"\nurl = "rtsp:///x"', ["names no host"]),
        ('id = "a"\nurl = "file://clip.mp4"', ["wants a path"]),
    ],
)
def test_errors_name_line_camera_and_key(written, row: str, words: list[str]) -> None:
    path = written(f"# ours\n\n[[camera]]\n{row}\n")
    with pytest.raises(CameraError) as error:
        cameras.read_file(path)
    assert str(error.value).startswith(f"{path}, line 3: camera 1")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[camera]\n", "line 1"),
        ("", "holds no [[camera]]"),
        ("camera = 3", "holds no [[camera]]"),
        ("camera = [1]", "camera 1: value: Input should be a valid dictionary"),
        ("[[cameras]]\nid = 'a'", "unknown key cameras"),
        ("[[camera]]\nid='a'\nurl='rtsp://h/1'\n[[camera]]\nid='a'\nurl='rtsp://h/2'", "camera id 'a' is given twice"),
        ("[[camera]]\nid='a'\nurl='rtsp://h/1'\n[[camera]]\nid='b'\nurl='x'", "line 4: camera 2 (b): url: "),
    ],
)
def test_files_that_are_refused(written, text: str, words: str) -> None:
    with pytest.raises(CameraError) as error:
        cameras.read_file(written(text))
    assert words in str(error.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="No such file"):
        cameras.read_file(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(CameraError, match="not UTF-8"):
        cameras.read_file(tmp_path / "latin.toml")


def test_pairs() -> None:
    found = cameras.read_pairs(["a=rtsp://h/x?a=b", "b=http://h/y"])
    assert [(camera.id, camera.url) for camera in found] == [("a", "rtsp://h/x?a=b"), ("b", "http://h/y")]
    with pytest.raises(CameraError, match="given twice"):
        cameras.read_pairs(["a=rtsp://h/x", "a=rtsp://h/y"])


SECRETS = ("s3cret", "hunter", "2hunter")


@pytest.mark.parametrize(
    "pair",
    [
        "a=hunter:s3cret@10.0.0.7/x",
        "a=rtsp://hunter:s3cret/2hunter@10.0.0.7/x",
        "a=rtsp://hunter:12/s3cret@10.0.0.7/x",
        "a=rtsp://hunter:12#s3cret@10.0.0.7/x",
        "a=rtsp://hunter:12?s3cret@10.0.0.7/x",
        "a=rtsp://hunter:s3cret@10.0.0.7:port/x",
        "a=rtsp://hunter:s3cret@[10.0.0.7/x",
        "a=ftp://hunter:s3cret@10.0.0.7/x",
        "rtsp://hunter:s3cret@10.0.0.7/x",
        "rtsp://hunter:s3c=s3cret@10.0.0.7/x",
        "A=rtsp://hunter:s3cret@10.0.0.7/x",
    ],
)
def test_errors_hold_no_credentials(pair: str) -> None:
    with pytest.raises(CameraError) as error:
        cameras.read_pairs([pair])
    shown = "".join(traceback.format_exception(error.value))
    assert "--camera 1" in shown
    assert not any(secret in shown for secret in SECRETS)
    result = CliRunner().invoke(main, ["ingest", "--camera", pair])
    assert result.exit_code == 1
    assert result.output.startswith("Error: --camera 1")
    assert not any(secret in result.output for secret in SECRETS)


def test_redacted_urls_and_representations_hold_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    url = "rtsp://hunter:s3cret@10.0.0.7:8554/user=hunter&password=s3cret/x?password=s3cret"
    assert redact(url) == "rtsp://10.0.0.7:8554/…"
    assert redact("https://hunter@[::1]/x") == "https://[::1]/…"
    assert redact("file:///clips/a.mp4") == "file:///clips/a.mp4"
    logging.getLogger("test").warning("%r %s", Camera(id="a", url=url), Camera(id="a", url=url))
    assert not any(secret in caplog.text for secret in SECRETS)


def test_the_command_wants_either_form(written) -> None:
    path = written("[[camera]]\nid='a'\nurl='rtsp://h/1'")
    for arguments in ([], ["--cameras", str(path), "--camera", "b=rtsp://h/2"]):
        result = CliRunner().invoke(main, ["ingest", *arguments])
        assert result.exit_code == 2
        assert "give either --cameras FILE or --camera NAME=URL" in result.output
