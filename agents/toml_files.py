"""TOML files that a person writes. What is wrong with one is told without its name, which the caller puts before it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from sfumato.schemas.fault import Fault


class TomlFileError(Fault, ValueError):
    """The file cannot be read, is not TOML, or lacks its tables; the text says which, without the file's name."""


def read(path: Path) -> str:
    """The file's text; :class:`TomlFileError`."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise TomlFileError("not UTF-8") from None
    except OSError as error:
        raise TomlFileError(error.strerror or type(error).__name__) from None


def parse(text: str) -> dict[str, Any]:
    """The document of a text; :class:`TomlFileError`."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TomlFileError(f"not TOML: {error}") from None


def load(path: Path) -> dict[str, Any]:
    """The document of a file; :class:`TomlFileError`."""
    return parse(read(path))


def tables(path: Path, name: str) -> list[tuple[str, Any]]:
    """The ``[[name]]`` tables of a file that holds nothing else, one at least; each with where it stands, as
    ``path, line 3: name 1``. :class:`TomlFileError`."""
    text = read(path)
    document = parse(text)
    if unknown := document.keys() - {name}:
        raise TomlFileError(f"unknown key {', '.join(sorted(unknown))}; known: [[{name}]]")
    found = document.get(name)
    if not isinstance(found, list) or not found:
        raise TomlFileError(f"holds no [[{name}]]")
    heading = re.compile(rf"\s*\[\[\s*{name}\s*\]\]")
    starts = [f", line {number}" for number, line in enumerate(text.splitlines(), 1) if heading.match(line)]
    lines = starts if len(starts) == len(found) else [""] * len(found)  # tables may be written otherwise
    return [
        (f"{path}{line}: {name} {number}", table)
        for number, (line, table) in enumerate(zip(lines, found, strict=True), 1)
    ]
