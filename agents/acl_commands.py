"""``sfumato acls`` and ``sfumato share``: who may do what on Kafka, and vendors' own topics (docs/brokers.md)."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import click

from sfumato.agents.settings import load

SHARES = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--principal", "pairs", multiple=True, metavar="ROLE=TYPE:NAME", help="Default: User:sfumato-ROLE.")
@click.option("--without", multiple=True, metavar="ROLE", help="A role that is not used here; may be repeated.")
@click.option("--shares", "file", type=SHARES, help="shares.toml: vendors, too.")
@click.option("--check", "check_only", is_flag=True, help="Change nothing; exit status 1 where anything differs.")
def acls(pairs: tuple[str, ...], without: tuple[str, ...], file: Path | None, check_only: bool) -> None:
    """Give each role the Kafka ACLs that it needs, and no more; prints each before. Needs a cluster's administrator."""
    from sfumato.agents import shares
    from sfumato.agents.acls import Cluster, beyond, line, principals, wanted

    given = {role: principal for role, _, principal in (pair.partition("=") for pair in pairs)}
    if bad := [pair for pair in pairs if not pair.partition("=")[2].partition(":")[2]]:
        raise click.UsageError(f"--principal {bad[0]}: wants ROLE=TYPE:NAME, as ingest=User:ingest")
    settings = load()
    needed = wanted(settings, principals(given, without), shares.read_file(file) if file else ())
    cluster = Cluster(settings)
    present = cluster.acls()
    missing = [binding for binding in needed if binding not in present]
    extra = beyond(settings, present, needed)
    for binding in missing:
        click.echo(f"{'missing' if check_only else 'add'}: {line(binding)}")
    for binding in extra:
        click.echo(f"nobody needs: {line(binding)}")
    if check_only:
        sys.exit(bool(missing or extra))
    cluster.add(missing)
    click.echo(f"{len(missing)} added, {len(needed) - len(missing)} were there")


@click.command()
@click.option("--shares", "file", type=SHARES, required=True, help="shares.toml: the vendors and their cameras.")
def share(file: Path) -> None:
    """Copy the anonymized frames of each vendor's cameras into a topic of its own, until Ctrl-C or SIGTERM."""
    from sfumato.agents import shares
    from sfumato.agents.share import share as run

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    run(load(), shares.read_file(file), stopping)
