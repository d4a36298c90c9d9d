"""Write a dossier into a folder: the record and the annex, each as Markdown and as HTML."""

from __future__ import annotations

from pathlib import Path

from sfumato.agents.dossier.assessment import assessment
from sfumato.agents.dossier.facts import Facts
from sfumato.agents.dossier.record import record
from sfumato.schemas.controller import Controller
from sfumato.schemas.fault import Fault

NAMES = {"record": record, "assessment": assessment}


class DossierError(Fault, OSError):
    """The folder cannot be written to; the text names the file."""


def write(facts: Facts, controller: Controller, folder: Path) -> list[Path]:
    """The files, in the order written; those of the same names are replaced. Raises :class:`DossierError`."""
    written = []
    for name, make in NAMES.items():
        page = make(facts, controller)
        for suffix, text in ((".md", page.markdown()), (".html", page.html())):
            path = folder / f"{name}{suffix}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise DossierError(f"{path}: {error.strerror}") from None
            written.append(path)
    return written
