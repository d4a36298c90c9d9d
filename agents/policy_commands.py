"""``sfumato policy …``: check, set and read policies (docs/policies.md)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sfumato.agents.settings import load

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def policy() -> None:
    """Say what is masked: check, set and read policies (docs/policies.md)."""


@policy.command()
@click.argument("file", type=FILE)
def validate(file: Path) -> None:
    """Check the policies of a TOML or JSON FILE, also against the site's floor, and publish nothing."""
    for found in _read(file):
        click.echo(f"{found.camera} version {found.version} is valid")


@policy.command("set")
@click.argument("file", type=FILE)
def set_(file: Path) -> None:
    """Check the policies of a TOML or JSON FILE and put them in force at once: all of them, or none."""
    from sfumato.agents import policies, retention

    found, settings = _read(file), load()
    if lines := [f"policy {each.camera}: {said}" for each in found if (said := retention.problem(settings, each))]:
        if retention.refuses(settings):
            raise retention.RetentionError("\n".join(lines))
        click.echo("\n".join(lines), err=True)
    policies.check(policies.load(settings), found)
    policies.publish(settings, found)
    for each in found:
        click.echo(f"set {each.camera} version {each.version}")


@policy.command()
@click.argument("camera")
@click.option("--version", type=click.IntRange(min=1), help="That version of CAMERA's own policy, from its history.")
def get(camera: str, version: int | None) -> None:
    """Print, as JSON, the policy that applies to CAMERA: its own, else the most specific pattern's."""
    register = _load()
    if version is not None:
        known = register.history.get(camera, {})
        if version not in known:
            raise click.ClickException(
                f"{camera!r} has no version {version}; `sfumato policy history {camera}` lists them"
            )
        click.echo(_pretty(known[version].value))
        return
    from sfumato.models.task import NoPolicy

    name = camera if camera in register.in_force else register.applies(camera)
    if name is None:
        raise click.ClickException(f"no policy applies to {camera!r}: its frames are fully masked")
    if name != camera:
        click.echo(f"{camera} has no policy of its own; that of {name} applies", err=True)
    entry = register.in_force[name]
    if isinstance(entry, NoPolicy):
        raise click.ClickException(f"the policy of {name!r} is not valid: frames are fully masked: {entry.detail}")
    click.echo(_pretty(entry.policy.model_dump_json().encode()))


@policy.command("list")
def list_() -> None:
    """List the policies in force: name, version, what is masked now, the schedule in force."""
    from sfumato.models.task import NoPolicy

    now = datetime.now(UTC)
    for name, entry in sorted(_load().in_force.items()):
        if isinstance(entry, NoPolicy):
            click.echo(f"{name}\tfully masked: {entry.reason}: {entry.detail}")
            continue
        form = entry.at(now, now)
        what = f"fully masked: {form.reason}" if isinstance(form, NoPolicy) else ", ".join(sorted(form.targets))
        parts = [
            name,
            f"version {entry.policy.version}",
            what,
            *([f"schedule {form.schedule}"] if form.schedule else []),
        ]
        click.echo("\t".join(parts))


@policy.command()
@click.argument("camera")
def history(camera: str) -> None:
    """List the versions ever set for CAMERA (an id or a pattern), the oldest first; `get --version` prints one."""
    from sfumato.models.timetable import Timetable

    register = _load()
    versions = register.history.get(camera, {})
    if not versions:
        raise click.ClickException(f"nothing was ever set for {camera!r}; `sfumato policy list` names what is in force")
    entry = register.in_force.get(camera)
    current = entry.policy.version if isinstance(entry, Timetable) else None
    for number, version in sorted(versions.items()):
        click.echo(f"version {number}\tset {version.set_at.isoformat()}" + ("\tin force" if number == current else ""))


@policy.command()
@click.argument("camera")
def withdraw(camera: str) -> None:
    """Take CAMERA's (an id or a pattern) policy out of force. A pattern's may then apply; else all is fully masked."""
    from sfumato.agents import policies

    if camera not in _load().in_force:
        raise click.ClickException(f"{camera!r} has no policy of its own; `sfumato policy list` names what is in force")
    policies.withdraw(load(), camera)
    click.echo(f"withdrew {camera}")


def _read(file: Path) -> Any:
    from sfumato.agents.policy_files import read_file, read_floor

    found = read_file(file, read_floor(load()))
    for each in found:
        for warning in each.warnings():
            click.echo(f"warning: policy of {each.camera!r}: {warning}", err=True)
    return found


def _load() -> Any:
    from sfumato.agents import policies
    from sfumato.agents.policy_files import read_floor

    settings = load()
    return policies.load(settings, read_floor(settings))


def _pretty(value: bytes) -> str:
    return json.dumps(json.loads(value), indent=2, ensure_ascii=False)
