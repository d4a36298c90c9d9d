"""``sfumato key …``: make, list and revoke API keys (docs/access.md). Needs the database, not the bridge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from sfumato.agents.settings import load
from sfumato.schemas.audit import summary
from sfumato.schemas.key import KeyDraft
from sfumato.schemas.scope import Role, Scope

if TYPE_CHECKING:
    from sfumato.agents.access.keys import Keys


@click.group()
def key() -> None:
    """API keys: who may use the API, and for what (docs/access.md)."""


@key.command()
@click.option("--name", required=True, help="Whose key it is; shown in lists.")
@click.option("--purpose", required=True, help="What its calls are for; in the audit of each call.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice([role.value for role in Role]),
    help="A set of scopes; may be repeated.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="One scope; may be repeated.",
)
@click.option("--camera", "cameras", multiple=True, metavar="PATTERN", help="A camera it opens, or '*'; repeatable.")
@click.option("--days", type=click.IntRange(min=1, max=36_500), help="Days until it ends; else it does not end.")
@click.option("--rate", type=int, help="Requests a minute, 100 to 10,000.")
@click.option("--bytes-a-day", type=int, help="Quota of bytes in and out.")
@click.option("--frames-a-day", type=int, help="Quota of frames and pictures.")
def create(
    name: str,
    purpose: str,
    roles: tuple[str, ...],
    scopes: tuple[str, ...],
    cameras: tuple[str, ...],
    days: int | None,
    rate: int | None,
    bytes_a_day: int | None,
    frames_a_day: int | None,
) -> None:
    """Make a key and print it as JSON; nothing shows it again."""
    from sfumato.agents.api import keys as resource

    try:
        draft = KeyDraft.model_validate(
            {
                "name": name,
                "purpose": purpose,
                "roles": roles,
                "scopes": scopes,
                "cameras": cameras,
                "expires_at": datetime.now(UTC) + timedelta(days=days) if days else None,
                "rate": rate,
                "bytes_a_day": bytes_a_day,
                "frames_a_day": frames_a_day,
            }
        )
    except ValidationError as error:
        raise click.ClickException(summary(error)) from None
    with _opened() as keys:
        click.echo(resource.create(keys, draft, "console").model_dump_json())


@key.command("list")
@click.option("--all", "everything", is_flag=True, help="Also keys that were revoked or have ended.")
def list_keys(everything: bool) -> None:
    """The keys, one JSON object a line; without their secrets, which nobody keeps."""
    from sfumato.agents.api import keys as resource

    with _opened() as keys:
        for found in keys.list():
            if everything or found.valid(datetime.now(UTC)):
                click.echo(resource.shown(found).model_dump_json())


@key.command()
@click.argument("id")
def revoke(id: str) -> None:
    """The key with this ID opens nothing any more; a running bridge notices within two seconds."""
    with _opened() as keys:
        if not keys.revoke(id):
            raise click.ClickException(f"there is no key {id!r}; `sfumato key list --all` shows them")


@contextmanager
def _opened() -> Iterator[Keys]:
    from sfumato.agents.access.keys import Keys
    from sfumato.agents.database import Database

    database = Database(load())
    try:
        database.migrate()
        yield Keys(database)
    finally:
        database.close()
