"""Every script under ops/ can be loaded: what it takes from sfumato is there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[1] / "ops").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_loads(name):
    importlib.import_module(name)
