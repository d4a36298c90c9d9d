"""The controller's file: read, and the template to fill in."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from sfumato.agents import toml_files
from sfumato.agents.toml_files import TomlFileError
from sfumato.schemas.controller import Controller
from sfumato.schemas.fault import Fault
from sfumato.schemas.remedy import field_of, remedy

DOCS = "docs/dossier.md"


class ControllerError(Fault, ValueError):
    """The controller's file cannot be read; the text names it and each field at fault."""


def template() -> str:
    """Every key, commented out."""
    return files("sfumato.agents.dossier").joinpath("controller.toml").read_text(encoding="utf-8")


def read_controller(path: Path | None) -> Controller:
    """The file's content; None: nothing is given. Raises :class:`ControllerError`."""
    if path is None:
        return Controller()
    try:
        return Controller.model_validate(toml_files.load(path), strict=False)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        problem = "; ".join(f"{field_of(each)}: {remedy(each, DOCS)}" for each in faults)
    except TomlFileError as error:
        problem = str(error)
    raise ControllerError(f"{path}: {problem}")
