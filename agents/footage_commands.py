"""``sfumato keys …``: list and shred the keys that seal raw footage (docs/footage.md). API keys: ``sfumato key``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from sfumato.agents.settings import load
from sfumato.schemas.cloudevent import format_time

if TYPE_CHECKING:
    from sfumato.agents.footage.stores import KeyStore
    from sfumato.agents.settings import Settings


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
@click.option("--despite-requests", "despite", is_flag=True, help="Also what open subject requests name; recorded.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def shred(camera: str | None, before: str | None, expired: bool, despite: bool, yes: bool) -> None:
    """Delete keys for good: what was captured then can never be read again. Prints the hours, as JSON lines.

    Hours that an open subject request names are refused, or with --expired kept and named (docs/footage.md).
    """
    from sfumato.agents.footage import stores

    if expired == (camera is not None) or expired == (before is not None):
        raise click.UsageError("give --camera and --before, or --expired alone")
    settings, now = load(), datetime.now(UTC)
    store = stores.make(settings)
    if camera is None or before is None:
        _shred_expired(settings, store, now, despite)
    else:
        _shred(settings, store, camera, _moment(before, now), despite, yes)


def _shred(settings: Settings, store: KeyStore, camera: str, until: datetime, despite: bool, yes: bool) -> None:
    from sfumato.agents.footage.shredding import due
    from sfumato.agents.footage.stores import KeyStoreError
    from sfumato.agents.subjects import holds

    requests = holds.Holds(settings)

    def look() -> list[holds.Hold]:
        held = due(store, camera, until, requests.look())
        if not despite:
            holds.refuse(held)
        return held

    held = look()
    if not yes:
        _confirm(store, camera, until)
        held = look()  # somebody may have asked for the footage while the question waited for its answer
    if held:
        holds.tell(settings, held)
    try:
        _print(camera, store.shred(camera, until))
    except KeyStoreError as error:
        _print(camera, error.shredded)
        raise


def _shred_expired(settings: Settings, store: KeyStore, now: datetime, despite: bool) -> None:
    from sfumato.agents.footage.shredding import due, shred_expired
    from sfumato.agents.subjects import holds

    until, found = now - timedelta(hours=settings.keys_hours), holds.Holds(settings).look()
    held = [hold for name in store.cameras() for hold in due(store, name, until, found)]
    if despite and held:
        holds.tell(settings, held)
    kept = [] if despite else held
    for hold in kept:
        click.echo(f"kept: {hold}", err=True)
    for name, hour in shred_expired(store, settings.keys_hours, now, kept):
        _print(name, [hour])


def _print(camera: str, shredded: Iterable[datetime]) -> None:
    from sfumato.agents.footage.stores import named

    for hour in shredded:
        click.echo(json.dumps({"camera": camera, "hour": named(hour)}))


def _confirm(store: KeyStore, camera: str, until: datetime) -> None:
    from sfumato.agents.footage.stores import ended, named

    found = [hour for hour, shredded_at in store.hours(camera) if not shredded_at and ended(hour, until)]
    if found:
        span = f"{len(found)} hours of {camera}, {named(found[0])} to {named(found[-1])}"
        click.confirm(f"{span}: nobody will ever read them again. Go on?", abort=True, err=True)


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
