"""The lines and files of an export."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents.evidence.inventory import walk
from sfumato.schemas import export
from sfumato.schemas.cloudevent import EnvelopeError
from tests.verifying import copy_export, files, make_export  # noqa: F401


@given(st.binary())
def test_every_leaf_is_one_line(leaf: bytes) -> None:
    line = export.leaf_line(leaf)
    assert b"\n" not in line
    assert export.leaf(line) == leaf


@given(st.binary(max_size=30))
def test_a_line_has_one_leaf_and_a_leaf_one_line(line: bytes) -> None:
    if b"\n" not in line:
        try:
            leaf = export.leaf(line)
        except EnvelopeError:
            return
        assert export.leaf_line(leaf) == line


def test_the_walk_is_in_the_order_of_paths(folder: Path) -> None:
    for name in ("a.txt", "a/b", "a-b/c", "A", "frames0"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    paths = [found.path for found in walk(folder)]
    assert paths == sorted(paths)
    assert set(paths) == set(files(folder)) - {export.MANIFEST}
