"""``sfumato keys …``: list and shred the keys that seal raw footage (docs/footage.md). API keys: ``sfumato key``."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from sfumato.agents.settings import load
from sfumato.schemas.cloudevent import format_time


@click.group()
def keys() -> None:
    """Keys of raw footage, per camera and hour (docs/footage.md). Not API keys: those are `sfumato key`."""


@keys.command("list")
@click.option("--camera", help="Of this camera only.")
def list_keys(camera: str | None) -> None:
    """The hours that have or had a key, one JSON object a line; never the keys."""
    from sfumato.agents.footage import stores

    store = stores.make(load())
    for name in [camera] if camera else store.cameras():
        for hour, shredded_at in store.hours(name):
            shown = {"camera": name, "hour": stores.named(hour)}
            click.echo(json.dumps({**shown, "shredded_at": format_time(shredded_at)} if shredded_at else shown))


@keys.command()
@click.option("--camera", help="The camera's id.")
@click.option("--before", metavar="TIME", help="RFC 3339, as 2026-11-25T13:00:00Z: hours that ended by then.")
@click.option("--expired", is_flag=True, help="All cameras, what is older than SFUMATO_KEYS_HOURS; for cron.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def shred(camera: str | None, before: str | None, expired: bool, yes: bool) -> None:
    """Delete keys for good: what was captured then can never be read again. Prints the hours, as JSON lines."""
    from sfumato.agents.footage import stores
    from sfumato.agents.footage.shredding import shred_expired

    if expired == (camera is not None) or expired == (before is not None):
        raise click.UsageError("give --camera and --before, or --expired alone")
    settings, now = load(), datetime.now(UTC)
    store = stores.make(settings)
    if camera is None or before is None:
        for name, hour in shred_expired(store, settings.keys_hours, now):
            click.echo(json.dumps({"camera": name, "hour": stores.named(hour)}))
        return
    until = _moment(before, now)
    found = [hour for hour, shredded_at in store.hours(camera) if not shredded_at and stores.ended(hour, until)]
    if found and not yes:
        span = f"{len(found)} hours of {camera}, {stores.named(found[0])} to {stores.named(found[-1])}"
        click.confirm(f"{span}: nobody will ever read them again. Go on?", abort=True, err=True)
    for hour in store.shred(camera, until):
        click.echo(json.dumps({"camera": camera, "hour": stores.named(hour)}))


def _moment(text: str, now: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError("--before: not an RFC 3339 time, as 2026-11-25T13:00:00Z") from None
    if moment.tzinfo is None:
        raise click.UsageError("--before: has no time zone; append Z for UTC")
    if moment > now:
        raise click.UsageError("--before: lies in the future; the ingestor needs the keys of the hour that it is")
    return moment
