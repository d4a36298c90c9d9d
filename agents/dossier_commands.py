"""``sfumato dossier``: what a data protection officer begins with (docs/dossier.md)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from sfumato.agents.settings import load

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--controller", "file", type=FILE, help="TOML: what only the controller knows.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), default=24.0, show_default=True, help="Counted.")
@click.option(
    "--ledger-key", "keys", multiple=True, metavar="KEY", help="NAME+HASH+BASE64: checks the ledger's signatures."
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
    from sfumato.agents.ledger.note import VerifierKey

    if template:
        click.echo(controller.template(), nl=False)
        return
    if out is None:
        raise click.UsageError("give --out DIR, or --template")
    own = controller.read_controller(file)
    verifiers = [VerifierKey.parse(key) for key in keys]
    facts = collect(load(), datetime.now(UTC), timedelta(hours=hours), verifiers, drills)
    for path in write(facts, own, out):
        click.echo(path)
