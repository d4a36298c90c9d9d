"""``sfumato dossier``: what a data protection officer begins with (docs/dossier.md)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from sfumato.agents.ledger.note import VerifierKey
from sfumato.agents.settings import Settings, load

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--controller", "file", type=FILE, help="TOML: what only the controller knows.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), default=24.0, show_default=True, help="Counted.")
@click.option(
    "--key", "keys", multiple=True, metavar="KEY", help="Checks the ledger's signatures; else its key file's."
)
@click.option("--drills", type=FILE, help="Results of `make drills`.")
@click.option("--template", is_flag=True, help="Print a controller's file to fill in, and write nothing.")
def dossier(
    out: Path | None, file: Path | None, hours: float, keys: tuple[str, ...], drills: Path | None, template: bool
) -> None:
    """Write a record of processing activities and an annex to a DPIA from the running system (docs/dossier.md)."""
    from sfumato.agents.dossier import controller
    from sfumato.agents.dossier.collect import collect
    from sfumato.agents.dossier.write import write

    if template:
        click.echo(controller.template(), nl=False)
        return
    if out is None:
        raise click.UsageError("give --out DIR, or --template")
    own = controller.read_controller(file)
    settings = load()
    facts = collect(settings, datetime.now(UTC), timedelta(hours=hours), _verifiers(settings, keys), drills)
    for path in write(facts, own, out):
        click.echo(path)


def _verifiers(settings: Settings, given: tuple[str, ...]) -> tuple[VerifierKey, ...]:
    """Whose signatures are believed: as given, else those of the ledger's key file, where this machine has it."""
    from sfumato.agents.ledger import keys

    if given:
        return tuple(map(VerifierKey.parse, given))
    path = settings.ledger_key_file or settings.state_dir / "ledger.key"
    return keys.load(settings).verifiers if path.exists() else ()
