"""The clips of ``clips.toml``, fetched on first use."""

from __future__ import annotations

from pathlib import Path

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models.weights import read_table

CLIPS = read_table(Path(__file__).with_name("clips.toml").read_text())


def clip(name: str) -> Path:
    """The path of a clip; KeyError for an unknown name."""
    return fetch(CLIPS[name], load().weights_dir)
